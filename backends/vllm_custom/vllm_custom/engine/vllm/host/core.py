"""vLLM's engine core, started for clients in other processes."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vllm.transformers_utils.config import maybe_register_config_serialize_by_value
from vllm.v1.engine import core
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.engine.utils import EngineZmqAddresses, launch_core_engines

from vllm_custom.engine.host.board import ROWS
from vllm_custom.engine.host.host import CoreError
from vllm_custom.engine.vllm.host.process import run_engine_core
from vllm_custom.engine.vllm.nodes import bound_waits
from vllm_custom.engine.vllm.older import executor_class
from vllm_custom.engine.vllm.start_failures import expect_failure, start_failure
from vllm_custom.runtime.new_process import WithoutCollections

# A client's place serves one front once: so often can all of them be replaced, and some more. Each that waits costs the
# engine some attempts to connect per second.
_GENERATIONS = 4
_SPARE_CLIENTS = 16


class VllmCore:
    """An engine core with its workers. For one event loop."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for the sockets."""
        self._folder = folder
        self._clients = 0
        self._addresses: Any = None
        self._manager: Any = None
        self._coordinator: Any = None
        self._client: Any = None
        self._up = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    @property
    def clients(self) -> int:
        return self._clients

    async def start(self, config: bytes, *, log_stats: bool, fronts: int) -> None:
        self._clients = min(_GENERATIONS * fronts + _SPARE_CLIENTS, ROWS)
        maybe_register_config_serialize_by_value()
        try:
            vllm_config = pickle.loads(config)  # noqa: S301 - of a process of this user, in a folder for him alone
            _check(vllm_config)
            await asyncio.to_thread(self._launch, vllm_config, log_stats)
        except CoreError:
            raise
        except Exception as error:
            reason = start_failure(error) or f"{type(error).__name__}: {error}"
            raise CoreError(f"vLLM could not start: {reason}") from error
        # The engine gives its first client what concerns no request; that one has to read it.
        self._client = EngineCoreClient.make_async_mp_client(
            vllm_config, executor_class(vllm_config), log_stats, self.addresses(0), self._clients, 0
        )
        self._draining = asyncio.create_task(self._drain())
        self._up.set()

    def addresses(self, client: int) -> dict[str, str]:
        known = self._addresses
        addresses = {"input_address": known.inputs[client], "output_address": known.outputs[client]}
        stats = known.frontend_stats_publish_address
        return addresses | ({"stats_update_address": stats} if stats else {})

    async def abort(self, client: int) -> int:
        engines = self._client.core_engines
        calls = (self._client._call_utility_async("abort_client", client, engine=engine) for engine in engines)
        return sum(await asyncio.gather(*calls))

    async def step(self) -> None:
        calls = (self._client._call_utility_async("is_sleeping", engine=engine) for engine in self._client.core_engines)
        await asyncio.gather(*calls)

    async def died(self) -> None:
        await self._up.wait()
        processes = list(self._manager.processes)
        if self._coordinator is not None:
            processes.append(self._coordinator.proc)
        await _any_ended([process.sentinel for process in processes])

    async def stop(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
        for owner in (self._client, self._manager, self._coordinator):
            if owner is not None:
                with contextlib.suppress(Exception):  # it has died already
                    await asyncio.to_thread(owner.shutdown)

    def _launch(self, vllm_config: Any, log_stats: bool) -> None:
        bound_waits()
        core.EngineCoreProc.run_engine_core = staticmethod(WithoutCollections(run_engine_core))
        expect_failure()
        parameters = inspect.signature(launch_core_engines).parameters
        options: dict[str, Any] = {}
        if "addresses" in parameters:
            everyone = range(self._clients)
            options["addresses"] = EngineZmqAddresses(
                inputs=[self._address("in", client) for client in everyone],
                outputs=[self._address("out", client) for client in everyone],
            )
        if "num_api_servers" in parameters:  # up to vLLM 0.20, which gives a tuple
            options["num_api_servers"] = self._clients
        executor = executor_class(vllm_config)
        with launch_core_engines(vllm_config, executor, log_stats, **options) as launch:
            parts = (
                launch if isinstance(launch, tuple) else (launch.engine_manager, launch.coordinator, launch.addresses)
            )
            self._manager, self._coordinator, self._addresses = parts[:3]

    def _address(self, direction: str, client: int) -> str:
        # Of another host than the one before in this folder, whose engine may still be about to end.
        return f"ipc://{self._folder / f'{os.getpid():x}{direction}{client}'}"

    async def _drain(self) -> None:
        with contextlib.suppress(Exception):  # the engine has died
            while True:
                await self._client.get_output_async()


def _check(vllm_config: Any) -> None:
    """Refuse what cannot be shared.

    Raises:
        CoreError: names the engine argument.
    """
    for argument, given in (
        ("data_parallel_backend", vllm_config.parallel_config.data_parallel_backend),
        ("mm_tensor_ipc", getattr(vllm_config.model_config.multimodal_config, "mm_tensor_ipc", None)),
    ):
        if given in ("ray", "torch_shm"):
            raise CoreError(
                f"model.json: {argument}: cannot be {given!r} where several instances share an engine "
                "(SHARE_ENGINE of config.pbtxt)"
            )
    parallel = vllm_config.parallel_config
    local, size = parallel.data_parallel_size_local, parallel.data_parallel_size
    if local < size and not getattr(parallel, "local_engines_only", False):  # they could not reach our sockets
        raise CoreError(
            f"model.json: data_parallel_size_local: expected {size} (data_parallel_size) where several instances share "
            f"an engine (SHARE_ENGINE of config.pbtxt), got {local}"
        )


async def _any_ended(descriptors: Sequence[int]) -> None:
    """Returns when one of them can be read, as the sentinel of a process can that has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    note: Callable[[], None] = ended.set
    for descriptor in descriptors:
        loop.add_reader(descriptor, note)
    try:
        await ended.wait()
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
