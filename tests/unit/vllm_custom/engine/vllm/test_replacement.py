"""An AsyncLLM gets another engine: what holds it goes on to hold it, and nothing waits for the one that has died."""

from __future__ import annotations

import asyncio
import pickle
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.host.messages import Slot
from vllm_custom.errors import ConfigError

pytest.importorskip("vllm")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vllm.v1.engine.core_client import EngineCoreClient
    from vllm.v1.engine.exceptions import EngineDeadError
    from vllm.v1.executor import Executor

    from vllm_custom.engine.vllm.replacement import EngineReplacement


class Host:
    """The connection to a host."""

    def __init__(self) -> None:
        self.config: Any = None
        self.options: dict[str, Any] = {}
        self.lost: Callable[[], None]

    def attach(self, config: bytes, **options: Any) -> Slot:
        self.config, self.options = pickle.loads(config), options
        return Slot(5, {"input_address": "in5"})

    def when_lost(self, call: Callable[[], None]) -> None:
        self.lost = call


class Processor:
    def __init__(self) -> None:
        self.request_states = {"a": 1, "b": 2}

    def abort_requests(self, names: list[str], internal: bool) -> None:
        assert internal
        for name in names:
            del self.request_states[name]


def client() -> Any:
    return SimpleNamespace(
        resources=SimpleNamespace(engine_dead=False, output_queue_task=None),
        outputs_queue=asyncio.Queue(),
        utility_results={},
    )


def dead_llm(clients: int) -> Any:
    parallel = SimpleNamespace(
        _api_process_count=clients,
        _api_process_rank=0,
        nnodes=1,
        distributed_executor_backend="mp",
        data_parallel_size=1,
        data_parallel_size_local=1,
    )
    config = SimpleNamespace(parallel_config=parallel, cache_config=SimpleNamespace(num_gpu_blocks=100))
    llm = SimpleNamespace(
        vllm_config=config,
        engine_core=client(),
        output_processor=Processor(),
        output_handler=SimpleNamespace(cancel=lambda: setattr(llm, "ended", True)),
        ended=False,
        log_stats=True,
        cleared=0,
    )
    llm.model_config = None
    llm.renderer = SimpleNamespace(clear_mm_cache=lambda: setattr(llm, "cleared", llm.cleared + 1))
    llm.engine_core.resources.engine_dead = True
    return llm


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What clients were made with."""
    calls: list[tuple[Any, ...]] = []

    def make(*arguments: Any) -> Any:
        calls.append(arguments)
        return client()

    monkeypatch.setattr(EngineCoreClient, "make_async_mp_client", staticmethod(make))
    monkeypatch.setattr(Executor, "get_class", staticmethod(lambda config: "executor"))
    return calls


@pytest.mark.parametrize(("clients", "rank"), [(1, 0), (3, 2)])
async def test_the_next_engine_is_used_in_the_place_of_the_dead_one(
    made: list[tuple[Any, ...]], clients: int, rank: int
) -> None:
    llm, host = dead_llm(clients), Host()
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    llm.engine_core.utility_results[1] = waiting
    replacement = EngineReplacement(llm, clients)
    slot = replacement.start(host)  # type: ignore[arg-type]
    assert host.config.cache_config.num_gpu_blocks is None, "vLLM would add those of the next engine"
    assert host.config.parallel_config._api_process_rank == (0 if clients == 1 else -1)
    assert (host.options["fronts"], host.options["log_stats"]) == (clients, True)
    await replacement.use(host, slot)  # type: ignore[arg-type]
    assert made == [(llm.vllm_config, "executor", True, {"input_address": "in5"}, clients, 5)]
    assert llm.vllm_config.parallel_config._api_process_rank == rank
    assert not llm.engine_core.resources.engine_dead
    assert (llm.output_handler, llm.cleared, llm.output_processor.request_states) == (None, 1, {})
    assert llm.ended
    assert isinstance(waiting.exception(), EngineDeadError), "vLLM would have it wait for ever"
    host.lost()
    assert llm.engine_core.resources.engine_dead


@pytest.mark.usefixtures("made")
async def test_the_end_of_an_engine_that_was_replaced_is_no_news() -> None:
    llm, first, second = dead_llm(1), Host(), Host()
    replacement = EngineReplacement(llm, 1)
    for host in (first, second):
        await replacement.use(host, replacement.start(host))  # type: ignore[arg-type]
    first.lost()
    assert not llm.engine_core.resources.engine_dead


def test_what_is_no_engine_of_this_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be started again"):
        EngineReplacement(SimpleNamespace(engine=1), 1)


@pytest.mark.parametrize(
    ("name", "value"), [("nnodes", 2), ("distributed_executor_backend", "ray"), ("data_parallel_size", 2)]
)
def test_an_engine_over_several_machines_is_refused(name: str, value: object) -> None:
    llm = dead_llm(1)
    setattr(llm.vllm_config.parallel_config, name, value)
    with pytest.raises(ConfigError, match="over several machines"):
        EngineReplacement(llm, 1)
