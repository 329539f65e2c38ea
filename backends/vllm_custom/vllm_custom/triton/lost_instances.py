"""Say so where the process of another instance was killed, and let tritonserver end if that is wanted.

Triton 24.10 does not start such a process again and goes on sending it its share of the requests, which fail at once.
Only a model that is unloaded and loaded again, or another tritonserver, has all its instances.
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

    def __init__(
        self, connection: Connection, is_wanted: Callable[[], bool], log: Log, end_server: Callable[[], None] | None
    ) -> None:
        """
        Args:
            connection: to the host.
            is_wanted: whether the model is to go on serving.
            log: of Triton.
            end_server: has tritonserver end; None where it is to go on.
        """
        self._is_wanted = is_wanted
        self._log = log
        self._end_server = end_server
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
            "unload the model and load it again, which finds its engine running (ENGINE_GRACE_PERIOD)"
        )
        if self._end_server is not None:
            self._end_server()
