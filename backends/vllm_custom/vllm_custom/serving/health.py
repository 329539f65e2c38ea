"""What requests are told of the engine: that it runs, that it is being started again, or that it has died."""

from __future__ import annotations

import asyncio
import math
import threading
import time

from vllm_custom.engine.protocol import Engine
from vllm_custom.errors import BackendError, EngineDownError
from vllm_custom.kernel import official_texts

DIED = "the vLLM engine has died; the model has to be loaded again"
REPLACED = "the model is being loaded again, with another engine; try again"
_RESTARTING = "the vLLM engine has died and is being started again; try again in {} seconds"
_POLL_SECONDS = 0.05
# Triton may wait for the requests under way before it says that it unloads a model.
_SETTLE_SECONDS = 2.0


class Health:
    """Refuses requests at once where the engine does not run. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        *,
        restart_seconds: float | None = None,
        wait_seconds: float = 0.0,
        asks_engine: bool = False,
    ) -> None:
        """
        Args:
            engine: that runs.
            restart_seconds: how long it takes to start it again; None where nothing does.
            wait_seconds: how long a request may wait for that.
            asks_engine: whether each request asks the engine how it is, as with the official backend.
        """
        self._engine = engine
        self._wait_seconds = wait_seconds
        self._asks_engine = asks_engine
        self._is_unwell = self._is_settled = False
        self._lock = threading.Lock()
        self._down = False
        self._message = DIED
        self._restart_seconds = restart_seconds
        self._since = 0.0

    @property
    def ready(self) -> bool:
        """Whether the engine runs. Cheap."""
        return not (self._down or self._engine.is_dead)

    @property
    def failed(self) -> bool:
        """Whether the engine has died, or has said that it is not well. Cheap."""
        return self._is_unwell or self._engine.is_dead

    @property
    def may_wait(self) -> bool:
        """Whether requests may wait for an engine that is being started again."""
        return self._wait_seconds > 0

    def check(self) -> None:
        """Refuse where the engine does not run.

        Raises:
            EngineDownError: says what becomes of it.
        """
        if not self.ready:
            raise self._error()

    async def wait(self) -> None:
        """Wait for an engine that is being started again, for as long as requests may; else as :meth:`check`.

        Raises:
            EngineDownError: it does not run by then.
        """
        until = time.monotonic() + self._wait_seconds
        while not self.ready and self._restart_seconds is not None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        self.check()
        if self._asks_engine:
            await self._ask_engine()

    def falls(self, message: str = DIED, restart_seconds: float | None = None) -> None:
        """The engine has died.

        Args:
            message: for requests, where it is not started again.
            restart_seconds: how long that takes; None where it is not.
        """
        with self._lock:
            self._since = self._since if self._down else time.monotonic()
            self._down, self._message, self._restart_seconds = True, message, restart_seconds

    def rises(self, restart_seconds: float) -> None:
        """The engine runs again; to start it once more would take so long."""
        with self._lock:
            self._down, self._is_unwell, self._restart_seconds = False, False, restart_seconds
            self._is_settled = False

    def settles(self) -> None:
        """Triton has been told to unload the model, or could not be."""
        self._is_settled = True

    async def _ask_engine(self) -> None:
        try:
            await self._engine.check_health()
        except BackendError as error:
            self.falls(official_texts.UNHEALTHY)
            self._is_unwell = True
            # A client that gets the answer finds a model that is not ready, as with the official backend.
            until = time.monotonic() + _SETTLE_SECONDS
            while not self._is_settled and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
            raise self._error() from error

    def _error(self) -> EngineDownError:
        with self._lock:
            if self._restart_seconds is None:
                return EngineDownError(self._message)
            passed = time.monotonic() - self._since if self._down else 0.0
            left = max(1, math.ceil(self._restart_seconds - passed))
            return EngineDownError(_RESTARTING.format(left), left)
