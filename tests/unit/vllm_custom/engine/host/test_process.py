"""How the scheduler is, as the engine core says, reaches a front that reports it, as long as there is one."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

HOST = 0
Step: TypeAlias = Callable[..., dict[int, Any]]


@pytest.fixture(scope="module")
def process(vllm: None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("vllm_custom.engine.vllm.host.process")


@pytest.fixture
def core() -> Any:
    scheduler = SimpleNamespace(requests={})
    return SimpleNamespace(scheduler=scheduler, abort_requests=lambda ids: None)


@pytest.fixture
def step(process: Any, core: Any, monkeypatch: pytest.MonkeyPatch) -> Step:
    """Who is told what, where vLLM's own step has outputs for some clients and tells the first of them."""
    monkeypatch.setattr(process, "_update_from_output", lambda _, outputs: outputs)

    def run(*clients: int) -> dict[int, Any]:
        outputs = {client: SimpleNamespace(scheduler_stats=None) for client in clients}
        outputs[clients[0]].scheduler_stats = "stats"
        found = process._tell_a_reporter(core.scheduler, outputs)
        assert [output.scheduler_stats for output in found.values()].count("stats") == 1
        assert set(clients) <= found.keys()
        return {client: output.scheduler_stats for client, output in found.items() if output.scheduler_stats}

    return run


def test_where_nobody_reports_all_is_as_vllm_has_it(step: Step) -> None:
    assert step(HOST) == {HOST: "stats"}
    assert step(2, 1) == {2: "stats"}


def test_of_a_step_without_tokens_a_reporter_is_told(step: Step, process: Any, core: Any) -> None:
    process._tell_client(core, 3)
    assert step(HOST) == {3: "stats"}


def test_of_a_step_with_tokens_for_a_reporter_it_is_told(step: Step, process: Any, core: Any) -> None:
    for client in (1, 2):
        process._tell_client(core, client)
    assert step(1, 2) == {1: "stats"}
    assert step(9, 1) == {1: "stats"}, "9 is of the direct server, and reports nothing here"
    assert step(9) == {1: "stats"}, "who had tokens last"


def test_who_has_gone_is_told_nothing(step: Step, process: Any, core: Any) -> None:
    for client in (1, 2):
        process._tell_client(core, client)
    process._abort_client(core, 2)
    assert step(HOST) == {1: "stats"}
    process._abort_client(core, 1)
    assert step(HOST) == {HOST: "stats"}
