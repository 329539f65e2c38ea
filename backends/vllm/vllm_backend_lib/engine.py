"""The engine's life: it is born, works and dies on the event loop of one thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from vllm_backend_lib.errors import ModelLoadError
from vllm_backend_lib.interfaces import Logger

DRAIN_POLL_SECONDS = 0.02
DRAIN_REPORT_SECONDS = 10.0


async def build_engine(engine_args: Any, stat_loggers: list[Any]) -> Any:
    """Starts vLLM's AsyncLLM on the running loop."""
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        engine_args, usage_context=UsageContext.OPENAI_API_SERVER, stat_loggers=stat_loggers
    )
    try:
        await engine.reset_mm_cache()  # drops the images that vLLM made up to measure its memory
    except BaseException:
        engine.shutdown()
        raise
    return engine


class EngineThread:
    """A thread with an event loop that owns an engine from start to shutdown.

    `engine`, `loop`, `thread` and `shutdown_event` are set once `start` has returned.
    """

    def __init__(
        self, build: Callable[[], Awaitable[Any]], ongoing_requests: Callable[[], int], logger: Logger
    ) -> None:
        self._build = build
        self._ongoing_requests = ongoing_requests
        self._logger = logger
        self.engine: Any = None
        self.loop: asyncio.AbstractEventLoop
        self.shutdown_event: asyncio.Event
        self.supported_tasks: tuple[str, ...] = ()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Blocks until the engine answers. Raises ModelLoadError, the thread gone, if it fails to start."""
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.thread = threading.Thread(target=asyncio.run, args=(self._live(started),), name="vllm-engine")
        self.thread.start()
        try:
            started.result()
        except BaseException as error:
            self.thread.join()
            self.thread = None
            raise ModelLoadError(f"vLLM could not start: {type(error).__name__}: {error}") from error

    def stop(self) -> None:
        """Waits for the ongoing requests, then shuts the engine down and joins the thread."""
        if self.thread is None:
            return
        self.loop.call_soon_threadsafe(self.shutdown_event.set)
        self.thread.join()
        self.thread = None

    async def _live(self, started: concurrent.futures.Future[None]) -> None:
        try:
            self.loop = asyncio.get_running_loop()
            self.shutdown_event = asyncio.Event()
            self.engine = await self._build()
            self.supported_tasks = tuple(await self.engine.get_supported_tasks())
        except BaseException as error:  # it is raised on the thread that waits for the start
            self._shut_down()
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            await self.shutdown_event.wait()
            await self._drain()
        finally:
            self._shut_down()
            self._logger.log_info("[vllm] the engine has shut down")

    async def _drain(self) -> None:
        """Waits until no request is ongoing; polls, because subclasses may count requests themselves."""
        next_report = self.loop.time()
        while (ongoing := self._ongoing_requests()) > 0:
            if self.loop.time() >= next_report:
                self._logger.log_info(f"[vllm] waiting for {ongoing} ongoing requests before shutdown")
                next_report = self.loop.time() + DRAIN_REPORT_SECONDS
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    def _shut_down(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.shutdown()
