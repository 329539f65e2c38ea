"""Let the base class get an AsyncLLM that uses the engine of a host, wherever it asks vLLM for one with its own."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

from vllm_custom.engine.host import Connection, config_of
from vllm_custom.engine.host.messages import Slot
from vllm_custom.kernel.orphans import SOCKETS_VARIABLE
from vllm_custom.runtime.async_utils import call_on


@contextlib.contextmanager
def attached(connection: Connection, fronts: int) -> Iterator[None]:
    """AsyncLLMs that are made meanwhile are clients of the host's engine.

    Args:
        connection: of this front to the host.
        fronts: how many there are to be.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    make = AsyncLLM.from_vllm_config

    def from_vllm_config(cls: Any, vllm_config: Any, **options: Any) -> Any:
        return _client(connection, fronts, make, vllm_config, options)

    def from_engine_args(
        cls: Any,
        engine_args: Any,
        start_engine_loop: bool = True,
        usage_context: Any = None,
        stat_loggers: list[Any] | None = None,
    ) -> Any:
        options = {"usage_context": usage_context} if usage_context is not None else {}
        return cls.from_vllm_config(
            engine_args.create_engine_config(**options),
            start_engine_loop=start_engine_loop,
            stat_loggers=stat_loggers,
            enable_log_requests=engine_args.enable_log_requests,
            disable_log_stats=engine_args.disable_log_stats,
            **options,
        )

    ours: dict[str, Any] = {"from_vllm_config": from_vllm_config, "from_engine_args": from_engine_args}
    own = {name: AsyncLLM.__dict__[name] for name in ours}
    for name, function in ours.items():
        setattr(AsyncLLM, name, classmethod(function))
    try:
        yield
    finally:
        for name, method in own.items():
            setattr(AsyncLLM, name, method)


def guest_client(connection: Connection, name: str, fronts: int, *, log_stats: bool) -> Any:
    """An AsyncLLM that uses an engine which others have started. To be made on its event loop.

    Args:
        connection: of the guest to the host.
        name: of the model, for vLLM's metrics.
        fronts: as those that started it have it.
        log_stats: whether vLLM counts this client's requests, for Prometheus.

    Raises:
        ConfigError: the engine has no place left, or has ended.
        OSError: it has ended.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    # Of a process of this user, in a folder for him alone.
    vllm_config = pickle.loads(config_of(connection.folder))  # noqa: S301
    vllm_config.model_config.served_model_name = name
    return _client(connection, fronts, AsyncLLM.from_vllm_config, vllm_config, {"disable_log_stats": not log_stats})


def _client(connection: Connection, fronts: int, make: Any, vllm_config: Any, options: dict[str, Any]) -> Any:
    parallel = vllm_config.parallel_config
    # Several clients: vLLM then keeps no cache of which the engine and one client hold a half each.
    clients = parallel._api_process_count = max(fronts, 2)
    log_stats = bool(options.get("stat_loggers")) or not options.get("disable_log_stats", False)
    slot = attach(connection, vllm_config, fronts, log_stats=log_stats)
    llm = make(vllm_config, client_addresses=slot.addresses, client_count=clients, client_index=slot.index, **options)
    connection.when_lost(functools.partial(declare_dead, llm))
    return llm


def attach(connection: Connection, vllm_config: Any, fronts: int, *, log_stats: bool) -> Slot:
    """Take a place among the clients of the host's engine, which is started where there is none. Blocks.

    Raises:
        ConfigError: it did not start, or has no place left.
    """
    from vllm.transformers_utils.config import maybe_register_config_serialize_by_value

    parallel = vllm_config.parallel_config
    parallel._api_process_rank = -1 if parallel._api_process_count > 1 else 0
    maybe_register_config_serialize_by_value()
    config = bytes(ForkingPickler.dumps(vllm_config))
    environment = {name: value for name, value in os.environ.items() if name != SOCKETS_VARIABLE}
    slot = connection.attach(config, log_stats=log_stats, fronts=fronts, environment=environment)
    parallel._api_process_rank = slot.index % parallel._api_process_count
    return slot


def declare_dead(llm: Any) -> None:
    """What the client does when its engine says that it dies; one that was killed says nothing."""
    from vllm.v1.engine.exceptions import EngineDeadError

    client = llm.engine_core
    client.resources.engine_dead = True
    reader = client.resources.output_queue_task
    if reader is not None:
        call_on(reader.get_loop(), lambda: client.outputs_queue.put_nowait(EngineDeadError()))
