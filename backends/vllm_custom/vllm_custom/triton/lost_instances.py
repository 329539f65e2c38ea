"""Say so where the process of another instance was killed.

Triton 24.10 does not start such a process again and goes on sending it its share of the requests, which fail at once.
What started tritonserver replaces the instances, if it is ``build.py serve`` or ``build.py supervise``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vllm_custom.engine.host import Connection
from vllm_custom.engine.host.messages import FrontLost
from vllm_custom.observability import Log

# One that Triton itself has ended, as it does at an unload that takes long, is not missed.
_UNLOADING_SECONDS = 1.0


class LostInstances:
    """For one instance. What it is told comes from the host of the engine."""

    def __init__(self, connection: Connection, is_wanted: Callable[[], bool], log: Log) -> None:
        """
        Args:
            connection: to the host.
            is_wanted: whether the model is to go on serving.
            log: of Triton.
        """
        self._is_wanted = is_wanted
        self._log = log
        connection.when_front_lost(self._lost)

    def _lost(self, message: FrontLost) -> None:
        if message.act:
            threading.Thread(target=self._tell, args=(message.name,), name="vllm_custom_lost", daemon=True).start()

    def _tell(self, name: str) -> None:
        time.sleep(_UNLOADING_SECONDS)
        if not self._is_wanted():
            return
        self._log.log_error(
            f"[vllm_custom] the process of the instance {name} has gone, and requests that Triton sends to it fail: "
            "where nothing replaces it, unload the model and load it again, which finds its engine running "
            "(ENGINE_GRACE_PERIOD)"
        )
