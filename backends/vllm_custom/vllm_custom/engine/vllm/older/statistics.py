"""Where vLLM keeps its stat loggers."""

from __future__ import annotations

from typing import Any


def loggers(manager: Any) -> tuple[list[list[Any]], int]:
    """The lists of loggers that a StatLoggerManager tells of each step, and the number of its engines."""
    if hasattr(manager, "stat_loggers"):
        return [manager.stat_loggers], len(manager.engine_indexes)
    per_engine = list(manager.per_engine_logger_dict.values())  # as in vLLM 0.11.0
    return per_engine, len(per_engine)
