"""Have Triton replace instances whose process was killed.

Triton 24.10 does not start such a process again and goes on sending it requests. With explicit model control the model
can be loaded once more next to the one that serves: Triton then starts new instances, which find the engine that there
is, and ends the old ones with the requests that they have. It does so only where something in the configuration is
another than before, so a parameter counts how often.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from vllm_custom.engine.host import Connection
from vllm_custom.engine.host.messages import FrontLost
from vllm_custom.observability import Log

_COUNTER = "INSTANCES_REPLACED"
# An instance that Triton itself has ended, as it does at an unload that takes long, is not to be replaced.
_UNLOADING_SECONDS = 1.0


class Healer:
    """For one instance. What it is told comes from the host of the engine."""

    def __init__(
        self,
        connection: Connection,
        model_config: Mapping[str, Any],
        load: Callable[[str], None],
        is_wanted: Callable[[], bool],
        log: Log,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            connection: to the host.
            model_config: of Triton.
            load: has Triton load the model with a configuration.
            is_wanted: whether the model is to go on serving.
            log: of Triton.
            give_up: called where an instance cannot be replaced.
        """
        self._connection = connection
        self._model_config = model_config
        self._load = load
        self._is_wanted = is_wanted
        self._log = log
        self._give_up = give_up
        connection.when_front_lost(self._lost)

    def _lost(self, message: FrontLost) -> None:
        if message.replace:
            self._log.log_error(f"[vllm_custom] the process of the instance {message.name} has gone")
            # Triton ends this instance too, and does not wait for a thread of it.
            threading.Thread(target=self._replace, name="vllm_custom_healing", daemon=True).start()

    def _replace(self) -> None:
        time.sleep(_UNLOADING_SECONDS)
        try:
            if self._is_wanted():
                self._load(counted(self._model_config))
                self._log.log_info("[vllm_custom] all instances have been replaced")
        except Exception as error:  # without explicit model control Triton loads nothing
            self._log.log_error(
                f"[vllm_custom] an instance cannot be replaced, and Triton still sends it requests: {error}. Start "
                "tritonserver with --model-control-mode=explicit, or restart it now"
            )
            if self._give_up is not None:
                self._give_up()
        self._connection.tried()


def counted(model_config: Mapping[str, Any]) -> str:
    """The configuration as JSON, its instances replaced once more."""
    config = copy.deepcopy(dict(model_config))
    parameters = config.setdefault("parameters", {})
    before = int(parameters.get(_COUNTER, {}).get("string_value", "0"))
    parameters[_COUNTER] = {"string_value": str(before + 1)}
    return json.dumps(config)
