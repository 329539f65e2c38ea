"""Instances whose process was killed are replaced by loading the model once more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from vllm_custom.engine.host.messages import FrontLost
from vllm_custom.triton import healing

CONFIG = {"name": "m", "parameters": {"SHARE_ENGINE": {"string_value": "true"}}}


class Host:
    """The connection of one front."""

    def __init__(self) -> None:
        self.tell: Callable[[Any], None]
        self.done = 0

    def when_front_lost(self, call: Callable[[Any], None]) -> None:
        self.tell = call

    def tried(self) -> None:
        self.done += 1


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log_info(self, message: str) -> None:
        self.lines.append(message)

    log_warn = log_error = log_info


class Front:
    """One of a model, and what it asks of Triton."""

    def __init__(self, config: dict[str, Any] = CONFIG) -> None:
        self.host, self.log = Host(), Log()
        self.loaded: list[dict[str, Any]] = []
        self.wanted = True
        self.error: Exception | None = None
        self.given_up = 0
        healing.Healer(
            self.host,  # type: ignore[arg-type]
            config,
            self.load,
            lambda: self.wanted,
            self.log,
            self.give_up,
        )

    def give_up(self) -> None:
        self.given_up += 1

    def load(self, config: str) -> None:
        if self.error is not None:
            raise self.error
        self.loaded.append(json.loads(config))

    def lose(self, name: str, *, replace: bool = True) -> None:
        self.host.tell(FrontLost(name, replace))
        deadline = time.monotonic() + 10
        while replace and not self.host.done:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "_UNLOADING_SECONDS", 0)


def test_one_that_is_asked_to_loads_the_model_with_another_configuration() -> None:
    front = Front()
    front.lose("m_0_1", replace=False)
    front.lose("m_0_2")
    (config,) = front.loaded
    assert config.pop("parameters") == {
        "SHARE_ENGINE": {"string_value": "true"},
        "INSTANCES_REPLACED": {"string_value": "1"},
    }
    assert config == {"name": "m"}
    assert "m_0_2 has gone" in front.log.lines[0]
    assert front.given_up == 0


def test_each_time_the_configuration_is_another() -> None:
    """Triton does nothing where it is the same."""
    first = Front({"name": "m"})
    first.lose("m_0_1")
    second = Front(first.loaded[0])
    second.lose("m_0_1")
    assert second.loaded[0]["parameters"] == {"INSTANCES_REPLACED": {"string_value": "2"}}


def test_a_model_that_is_being_unloaded_is_left_alone() -> None:
    front = Front()
    front.wanted = False
    front.lose("m_0_1")
    assert (front.loaded, front.given_up) == ([], 0)


def test_without_explicit_model_control_the_log_says_what_to_do() -> None:
    front = Front()
    front.error = RuntimeError("not allowed")
    front.lose("m_0_1")
    assert "--model-control-mode=explicit" in front.log.lines[-1]
    assert front.given_up == 1
