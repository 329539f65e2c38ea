"""End a process in whose place Triton has started another one.

Triton ends such a process itself, but not while a request of its model is open; and those that a killed instance had
are open forever. Where the model is unloaded meanwhile, Triton takes the instance apart, and aborts if its process
ends at that moment: then the process is left to Triton.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from vllm_custom.engine.host import Connection
from vllm_custom.observability import Log

# Requests may still wait in Triton's queues.
_QUIET_SECONDS = 10.0
_POLL_SECONDS = 1.0


class Retirement:
    """For one instance. The host of the engine says when."""

    def __init__(
        self,
        connection: Connection,
        running: Callable[[], int],
        is_served: Callable[[], bool],
        log: Log,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """
        Args:
            connection: to the host.
            running: how many requests there are.
            is_served: whether the model is loaded, by its new instances.
            log: of Triton.
            end: ends this process.
        """
        self._connection = connection
        self._running = running
        self._is_served = is_served
        self._log = log
        self._end = end
        self._begun = False
        connection.when_retired(self._begin)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._wait, name="vllm_custom_retirement", daemon=True).start()

    def _wait(self) -> None:
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_SECONDS:
            time.sleep(_POLL_SECONDS)
            if not self._is_served():
                return
            if self._running():
                quiet_since = time.monotonic()
        self._log.log_info("[vllm_custom] an instance that was replaced ends; Triton had kept it")
        self._connection.leave()
        self._end(0)
