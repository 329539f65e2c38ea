"""JSON objects from files and requests, with errors that say where they are wrong."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from .errors import BackendError, shorten


def parse_object(text: str, name: str, error: type[BackendError]) -> dict[str, Any]:
    """The JSON object that ``text`` holds.

    Args:
        text: JSON; NaN and infinity are not.
        name: of the file or field, in messages.
        error: what is raised where it is something else.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        reason = _reason(problem)
        raise error(f"{name}: expected a JSON object, got text that is not JSON ({reason})") from problem
    if not isinstance(value, dict):
        raise error(f"{name}: expected a JSON object, got {shorten(value)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _reason(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        return f"{problem.msg} at line {problem.lineno}, column {problem.colno}"
    return "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
