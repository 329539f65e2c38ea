"""A process in whose place others serve ends by itself, once its requests have ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from vllm_custom.triton import retirement


class Host:
    """The connection of one front."""

    def __init__(self) -> None:
        self.retire: Callable[[], None]
        self.left = False

    def when_retired(self, call: Callable[[], None]) -> None:
        self.retire = call

    def leave(self) -> None:
        self.left = True


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log_info(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retirement, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(retirement, "_POLL_SECONDS", 0.02)


def test_it_leaves_and_ends_when_it_has_been_without_requests_for_a_while() -> None:
    host, log, running, ended = Host(), Log(), [1], threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        assert host.left
        codes.append(code)
        ended.set()

    given: Any = (host, lambda: running[0], lambda: True, log, end)
    retirement.Retirement(*given)
    host.retire()
    time.sleep(0.5)
    assert not ended.is_set()
    running[0] = 0
    host.retire()  # each of the new ones says so
    assert ended.wait(10)
    assert codes == [0]
    assert len(log.lines) == 1


def test_nothing_ends_before() -> None:
    host, ended = Host(), threading.Event()
    given: Any = (host, lambda: 0, lambda: True, Log(), lambda code: ended.set())
    retirement.Retirement(*given)
    assert not ended.wait(0.5)
    assert not host.left


def test_one_whose_model_is_unloaded_meanwhile_is_left_to_triton() -> None:
    host, ended, served = Host(), threading.Event(), [True]
    given: Any = (host, lambda: 1, lambda: served[0], Log(), lambda code: ended.set())
    made = retirement.Retirement(*given)
    host.retire()
    served[0] = False
    time.sleep(0.2)
    served[0] = True
    made._running = lambda: 0
    assert not ended.wait(0.6)
    assert not host.left
