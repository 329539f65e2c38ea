"""Instances whose process was killed: the log says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from vllm_custom.engine.host.messages import FrontLost
from vllm_custom.triton import lost_instances


class Host:
    """The connection of one front."""

    def __init__(self) -> None:
        self.tell: Callable[[Any], None]

    def when_front_lost(self, call: Callable[[Any], None]) -> None:
        self.tell = call


class Front:
    """One of a model."""

    def __init__(self) -> None:
        self.host = Host()
        self.lines: list[str] = []
        self.asked = 0
        self.wanted = True
        lost_instances.LostInstances(self.host, self.is_wanted, self)  # type: ignore[arg-type]

    def is_wanted(self) -> bool:
        self.asked += 1
        return self.wanted

    def log_error(self, message: str) -> None:
        self.lines.append(message)

    log_info = log_warn = log_error

    def lose(self, name: str) -> None:
        self.host.tell(FrontLost("another", False))
        self.host.tell(FrontLost(name, True))
        deadline = time.monotonic() + 10
        while not self.asked or (self.wanted and not self.lines):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_instances, "_UNLOADING_SECONDS", 0)


def test_the_log_says_what_to_do() -> None:
    front = Front()
    front.lose("m_0_2")
    (line,) = front.lines
    assert "m_0_2 has gone" in line
    assert "unload the model and load it again" in line


def test_an_instance_of_a_model_that_is_being_unloaded_is_not_missed() -> None:
    front = Front()
    front.wanted = False
    front.lose("m_0_1")
    assert front.lines == []
