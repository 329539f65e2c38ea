"""How the process of an engine core starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_custom.runtime.new_process import WithoutCollections

# In the process that starts others; in a new one nothing has taken the place of vLLM's function.
_vllms_own: Callable[..., None] | None = None


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """vLLM's function of this name, which a new process finds here."""
    from vllm.v1.engine.core import EngineCoreProc

    own: Callable[..., None] = _vllms_own or EngineCoreProc.run_engine_core
    own(*args, **kwargs)


def start_cores_quickly() -> None:
    """Engine cores that are started from now on import vLLM without collecting garbage meanwhile."""
    from vllm.v1.engine.core import EngineCoreProc

    global _vllms_own
    if _vllms_own is None:
        _vllms_own = EngineCoreProc.run_engine_core
        EngineCoreProc.run_engine_core = staticmethod(WithoutCollections(run_engine_core))
