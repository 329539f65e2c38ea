"""Have the engine core tell this client how the scheduler is, of each step: it reports that to Triton."""

from __future__ import annotations

from typing import Any


async def report_scheduler(llm: Any) -> None:
    """``llm``: an AsyncLLM that uses the engine of a host, also after it has got another one."""
    core = llm.engine_core
    if llm.log_stats and hasattr(core, "call_utility_async"):
        llm.reports_scheduler = True
        await core.call_utility_async("tell_client", core.client_index)


async def report_scheduler_again(llm: Any) -> None:
    """The same for an AsyncLLM that has got another engine, if it did so with the old one."""
    if getattr(llm, "reports_scheduler", False):
        await report_scheduler(llm)
