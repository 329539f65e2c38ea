"""Give an AsyncLLM whose engine has died another one, while all that holds the AsyncLLM goes on to hold it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Any

from vllm_custom.engine.host import Connection
from vllm_custom.engine.vllm.host.attach import attach, declare_dead
from vllm_custom.engine.vllm.host.reporting import report_scheduler_again
from vllm_custom.engine.vllm.older import executor_class
from vllm_custom.engine.vllm.prompts import rendering
from vllm_custom.engine.vllm.requests import on_one_host
from vllm_custom.errors import ConfigError


class EngineReplacement:
    """For one AsyncLLM."""

    def __init__(self, llm: Any, fronts: int) -> None:
        """
        Args:
            llm: whose engine may die.
            fronts: how many clients the engine is to have.

        Raises:
            ConfigError: it is of a kind whose engine cannot be replaced.
        """
        if not hasattr(llm, "engine_core") or not hasattr(llm, "output_handler"):
            raise ConfigError("the engine of this release of vLLM cannot be started again")
        if not on_one_host(llm):
            raise ConfigError("an engine over several machines, or one that Ray starts, cannot be started again")
        self._llm = llm
        self._fronts = fronts

    def stop(self) -> None:
        """End what is left of the engine that has died. Blocks."""
        with contextlib.suppress(Exception):  # it has died
            self._llm.engine_core.shutdown()

    def start(self, connection: Connection) -> Any:
        """Have the host start an engine with the configuration of the old one. Blocks for as long as that takes.

        Returns:
            what :meth:`use` takes.

        Raises:
            ConfigError: it does not start.
        """
        config = self._llm.vllm_config
        config.cache_config.num_gpu_blocks = None  # vLLM adds up what engines report
        return attach(connection, config, self._fronts, log_stats=bool(self._llm.log_stats))

    async def use(self, connection: Connection, slot: Any) -> None:
        """Send requests to the engine that has been started, from now on. On the event loop of the AsyncLLM."""
        from vllm.v1.engine.core_client import EngineCoreClient

        llm = self._llm
        forget_requests(llm)
        with contextlib.suppress(Exception):  # the new engine has none of the media that the old one had
            rendering(llm).forget_media()
        clients = llm.vllm_config.parallel_config._api_process_count
        executor = executor_class(llm.vllm_config)
        client = EngineCoreClient.make_async_mp_client(
            llm.vllm_config, executor, bool(llm.log_stats), slot.addresses, clients, slot.index
        )
        llm.engine_core = client
        if llm.output_handler is not None:  # it reads from the old engine; the next request starts another
            llm.output_handler.cancel()
            llm.output_handler = None
        connection.when_lost(functools.partial(_lose, llm, client))
        await report_scheduler_again(llm)


def forget_requests(llm: Any) -> None:
    """End what waits for an engine that has died, which vLLM does for outputs only."""
    from vllm.v1.engine.exceptions import EngineDeadError

    for future in list(getattr(llm.engine_core, "utility_results", {}).values()):
        if not future.done():
            future.set_exception(EngineDeadError())
            future.exception()  # what waited may have gone
    processor = getattr(llm, "output_processor", None)
    if processor is not None:
        # Up to vLLM 0.13 there is one kind of ids.
        known = inspect.signature(processor.abort_requests).parameters
        processor.abort_requests(list(processor.request_states), **({"internal": True} if "internal" in known else {}))


def _lose(llm: Any, client: Any) -> None:
    if llm.engine_core is client:
        declare_dead(llm)
