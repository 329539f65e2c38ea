"""What runs in the process of vLLM's engine core: vLLM's own program, and what it does for several fronts besides.

vLLM tells one client of each step how the scheduler is: the first that gets a token, or else the host, which reports
nothing.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine.core import EngineCoreProc

from vllm_custom.engine.vllm.starting import core_process

_vllms_own = EngineCoreProc.run_engine_core
_update_from_output = Scheduler.update_from_output


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """In the place of vLLM's function of this name."""
    EngineCoreProc.abort_client = _abort_client
    EngineCoreProc.tell_client = _tell_client
    Scheduler.update_from_output = _tell_a_reporter
    with core_process(kwargs.get("vllm_config")):
        _vllms_own(*args, **kwargs)


def _abort_client(core: Any, client: int) -> int:
    """End all requests of a client that has gone. How many there were."""
    _reporters(core.scheduler).pop(client, None)
    requests = [request.request_id for request in core.scheduler.requests.values() if request.client_index == client]
    core.abort_requests(requests)
    return len(requests)


def _tell_client(core: Any, client: int) -> None:
    """A client reports to Triton how the scheduler is."""
    _reporters(core.scheduler)[client] = None


def _tell_a_reporter(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """In the place of the scheduler's ``update_from_output``: one that reports it is told, if there is one."""
    outputs = _update_from_output(scheduler, *args, **kwargs)
    reporters = _reporters(scheduler)
    for client in reporters.keys() & outputs.keys():
        reporters[client] = reporters.pop(client)  # it comes last
    told = next((client for client, output in outputs.items() if output.scheduler_stats is not None), None)
    if reporters and told is not None and told not in reporters:
        stats, outputs[told].scheduler_stats = outputs[told].scheduler_stats, None
        outputs.setdefault(next(reversed(reporters)), EngineCoreOutputs()).scheduler_stats = stats
    return outputs


def _reporters(scheduler: Any) -> dict[int, None]:
    """Those that have not gone, in the order in which they last had outputs."""
    known: dict[int, None] = vars(scheduler).setdefault("vllm_custom_reporters", {})
    return known
