"""JSON objects from files and requests, with errors that say where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from vllm_backend_lib.errors import ModelLoadError


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError saying what is wrong and where."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not valid JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object {{...}}, got a JSON {type(value).__name__}")
    return value


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`. Raises ModelLoadError naming the file and the place."""
    try:
        return parse_object(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path}: file not found") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not valid JSON: {name} is not a JSON number")
