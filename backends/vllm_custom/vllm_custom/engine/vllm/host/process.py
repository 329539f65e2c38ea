"""What runs in the process of vLLM's engine core: vLLM's own program, and one more thing that it can be asked for."""

from __future__ import annotations

from typing import Any

from vllm.v1.engine.core import EngineCoreProc

_vllms_own = EngineCoreProc.run_engine_core


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """In the place of vLLM's function of this name."""
    EngineCoreProc.abort_client = _abort_client
    _vllms_own(*args, **kwargs)


def _abort_client(core: Any, client: int) -> int:
    """End all requests of a client that has gone. How many there were."""
    requests = [request.request_id for request in core.scheduler.requests.values() if request.client_index == client]
    core.abort_requests(requests)
    return len(requests)
