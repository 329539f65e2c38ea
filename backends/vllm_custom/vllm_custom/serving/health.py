"""Whether the engine lives, and what follows where it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vllm_custom.engine.protocol import Engine
from vllm_custom.errors import UnavailableError

_DIED = "the vLLM engine has died; the model has to be loaded again"
_UNLOADING = "the vLLM engine has died; the model is being unloaded"


class Health:
    """Refuses requests at once where the engine has died. Thread-safe."""

    def __init__(self, engine: Engine, unload: Callable[[], None] | None, log_error: Callable[[str], None]) -> None:
        """``unload``: asks Triton to unload the model (ENABLE_VLLM_HEALTH_CHECK); None where that is not wanted."""
        self._engine = engine
        self._unload = unload
        self._log_error = log_error
        self._lock = threading.Lock()
        self._message = ""

    def check(self) -> None:
        """Refuse where the engine has died.

        Raises:
            UnavailableError: says whether the model is being unloaded.
        """
        if self._engine.is_dead:
            raise UnavailableError(self._message or self._found_dead())

    def _found_dead(self) -> str:
        """The first look at a dead engine: unload the model where that is wanted and Triton lets us."""
        with self._lock:
            if not self._message:
                self._message = _DIED
                self._log_error("[vllm_custom] the vLLM engine has died")
                if self._unload is not None:
                    # Triton waits for the requests under way, so that the one which found out must not wait for it.
                    threading.Thread(target=self._try_unload, name="vllm_custom_unload", daemon=True).start()
            return self._message

    def _try_unload(self) -> None:
        self._message = _UNLOADING
        try:
            assert self._unload is not None
            self._unload()
        except Exception as error:  # without explicit model control Triton unloads nothing
            self._message = _DIED
            self._log_error(f"[vllm_custom] the model cannot be unloaded: {error}")
