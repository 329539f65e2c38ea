"""Wherever the base asks vLLM for an engine of its own, it gets a client of the host's engine."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.host.messages import Slot
from vllm_custom.engine.host.offer import leave_config
from vllm_custom.engine.vllm.host import attached, guest_client


class Host:
    """The connection of one front."""

    folder: Path

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.lost: Callable[[], None]

    def attach(self, config: bytes, **options: Any) -> Slot:
        self.given = {"config": pickle.loads(config), **options}
        return Slot(4, {"input_address": "in", "output_address": "out"})

    def when_lost(self, call: Callable[[], None]) -> None:
        self.lost = call


class Arguments:
    enable_log_requests = False
    disable_log_stats = True

    def create_engine_config(self, usage_context: str = "") -> Any:
        return SimpleNamespace(parallel_config=SimpleNamespace(), usage=usage_context)


@pytest.fixture
def made(async_llm: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What clients were made with, in place of clients."""
    calls: list[dict[str, Any]] = []

    def make(cls: type, vllm_config: Any, **options: Any) -> Any:
        calls.append({"vllm_config": vllm_config, **options})
        resources = SimpleNamespace(engine_dead=False, output_queue_task=None)
        return SimpleNamespace(engine_core=SimpleNamespace(resources=resources, outputs_queue=asyncio.Queue()))

    monkeypatch.setattr(async_llm, "from_vllm_config", classmethod(make))
    return calls


@pytest.mark.parametrize("by_arguments", [True, False])
def test_both_ways_to_an_engine_lead_to_the_host(
    async_llm: Any, made: list[dict[str, Any]], by_arguments: bool
) -> None:
    host, loggers = Host(), [object()]
    with attached(host, 3):  # type: ignore[arg-type]
        if by_arguments:
            async_llm.from_engine_args(Arguments(), usage_context="here", stat_loggers=loggers)
        else:
            config = Arguments().create_engine_config("here")
            async_llm.from_vllm_config(vllm_config=config, usage_context="here", stat_loggers=loggers)
    assert host.given["log_stats"], "loggers were given"
    assert host.given["fronts"] == 3
    assert host.given["config"].parallel_config._api_process_count == 3
    assert host.given["config"].parallel_config._api_process_rank == -1
    (client,) = made
    assert client["client_addresses"] == {"input_address": "in", "output_address": "out"}
    assert (client["client_count"], client["client_index"], client["stat_loggers"]) == (3, 4, loggers)
    assert client["vllm_config"].parallel_config._api_process_rank == 1
    assert client["usage_context"] == client["vllm_config"].usage == "here"


def test_afterwards_vllm_is_as_it_was(async_llm: Any) -> None:
    before = [async_llm.__dict__[name] for name in ("from_engine_args", "from_vllm_config")]
    with pytest.raises(RuntimeError), attached(Host(), 2):  # type: ignore[arg-type]
        raise RuntimeError
    assert [async_llm.__dict__[name] for name in ("from_engine_args", "from_vllm_config")] == before


@pytest.mark.usefixtures("made")
async def test_a_lost_host_is_a_dead_engine(async_llm: Any) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    host = Host()
    with attached(host, 2):  # type: ignore[arg-type]
        llm: Any = async_llm.from_engine_args(Arguments())
    llm.engine_core.resources.output_queue_task = asyncio.current_task()
    await asyncio.to_thread(host.lost)
    assert llm.engine_core.resources.engine_dead
    assert isinstance(await asyncio.wait_for(llm.engine_core.outputs_queue.get(), 10), EngineDeadError)


def test_a_guest_uses_the_configuration_that_an_instance_left(
    async_llm: Any, made: list[dict[str, Any]], tmp_path: Path
) -> None:
    names = SimpleNamespace(served_model_name="/models/m/1/weights")
    leave_config(tmp_path, pickle.dumps(SimpleNamespace(parallel_config=SimpleNamespace(), model_config=names)))
    host = Host()
    host.folder = tmp_path
    guest_client(host, "m", 3, log_stats=False)  # type: ignore[arg-type]
    (client,) = made
    assert client["vllm_config"].model_config.served_model_name == "m", "the path of weights is nobody's business"
    assert client["disable_log_stats"]
    assert (client["client_count"], client["client_index"]) == (3, 4)
    assert not host.given["log_stats"]
