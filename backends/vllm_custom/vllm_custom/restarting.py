"""Starts the engine of a model again, in the process of a host, whichever process it belonged to before."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from vllm_custom.engine import vllm as engine
from vllm_custom.engine.host import Connection
from vllm_custom.errors import ConfigError
from vllm_custom.serving.common import wait_on


class EngineRestarter:
    """For one model of this process. What :class:`~.serving.engine_watch.EngineWatch` asks for."""

    def __init__(
        self,
        replacement: engine.EngineReplacement,
        loop: asyncio.AbstractEventLoop,
        join: Callable[[], Connection],
        adopt: Callable[[Connection], None],
        is_first_to_note: Callable[[], bool],
        seconds: float,
    ) -> None:
        """
        Args:
            replacement: puts another engine in the place of the one that has died.
            loop: of the engine.
            join: connects to a host, which is started where there is none.
            adopt: takes the connection to the engine that runs again.
            is_first_to_note: whether no other process has noted the death of this engine before.
            seconds: how long the engine took to start.
        """
        self._replacement = replacement
        self._loop = loop
        self._join = join
        self._adopt = adopt
        self._is_first_to_note = is_first_to_note
        self._lock = threading.Lock()
        self._cancelled = False
        self._joined: Connection | None = None
        self.seconds = seconds
        self.counts = False

    @property
    def counts_death(self) -> bool:
        """Whether this process counts that the engine has died. To be asked once for each death."""
        return self._is_first_to_note()

    def start(self) -> None:
        """Blocks until the engine runs.

        Raises:
            ConfigError: it does not.
        """
        began = time.monotonic()
        self._replacement.stop()
        connection = self._join()
        self.counts = connection.started
        try:
            self._note(connection)
            slot = self._replacement.start(connection)
            wait_on(self._loop, self._replacement.use(connection, slot))
        except BaseException:
            connection.leave()
            raise
        finally:
            self._note(None)
        self._adopt(connection)
        self.seconds = time.monotonic() - began

    def cancel(self) -> None:
        """Have a start that is under way fail soon, and all that come."""
        with self._lock:
            self._cancelled = True
            joined = self._joined
        if joined is not None:
            joined.leave()

    def _note(self, connection: Connection | None) -> None:
        with self._lock:
            self._joined = connection
            if connection is not None and self._cancelled:
                raise ConfigError("the model is being unloaded")
