"""Let the metrics loggers of official releases be called as vLLM calls them today.

What breaks: the loggers of r25.10 and r25.11 have `record(scheduler_stats, iteration_stats, engine_idx)`. vLLM passes
`mm_cache_stats` as well, and None for `iteration_stats` where a step had no output (both seen with 0.32); either error
ends the engine at the first request of a model with REPORT_CUSTOM_METRICS. Loggers that do not take the argument are
called without it, and only where there is something to record.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

NAME = "stat_logger_record"
BEFORE_VLLM = False

RELEASES = ("official r25.10", "official r25.11", "unknown")
_ARGUMENT = "mm_cache_stats"


def applies(upstream: str, vllm_version: str) -> bool:
    """For the releases whose loggers lack the argument, where vLLM passes it."""
    if upstream not in RELEASES:
        return False
    from vllm.v1.metrics.loggers import StatLoggerBase

    return _ARGUMENT in inspect.signature(StatLoggerBase.record).parameters


def apply() -> None:
    """Look at each logger class that is defined from now on."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    StatLoggerBase.__init_subclass__ = classmethod(_adapt)


def _adapt(logger_class: type) -> None:
    """Wrap the class's own ``record`` where it lacks the argument."""
    record: Any = logger_class.__dict__.get("record")
    if record is None or _takes(record):
        return

    @functools.wraps(record)
    def without_the_argument(logger: Any, scheduler_stats: Any, iteration_stats: Any, *_: Any, **more: Any) -> None:
        more.pop(_ARGUMENT, None)
        if iteration_stats is not None:
            record(logger, scheduler_stats, iteration_stats, **more)

    setattr(logger_class, "record", without_the_argument)  # noqa: B010 - mypy knows no such attribute of a type


def _takes(record: Any) -> bool:
    parameters = inspect.signature(record).parameters.values()
    return any(item.name == _ARGUMENT or item.kind is item.VAR_KEYWORD for item in parameters)
