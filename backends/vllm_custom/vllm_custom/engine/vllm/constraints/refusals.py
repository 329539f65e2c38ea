"""Why a constraint was refused, in words for the client. What is here may take long: it runs where the compilers do."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_REASON_CHARACTERS = 1000
# The native compilers put the time and their own source file before what they have to say.
_COMPILER_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}")


def explain(kind: str, value: Any, error: BaseException) -> str:
    """Where a refused constraint is wrong, else what the compiler said; of at most MAX_REASON_CHARACTERS."""
    text = _place(kind, value) or _reasons(error)
    return _ADDRESS.sub("0x...", text[: 2 * MAX_REASON_CHARACTERS])[:MAX_REASON_CHARACTERS]


def _place(kind: str, value: Any) -> str | None:
    """Where a refused constraint is wrong by the rules of its own language, or None if it is not."""
    if kind == "regex":
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
    if kind == "json":
        return _schema_error(json.loads(value) if isinstance(value, str) else value)
    return None


def _schema_error(schema: dict[str, Any]) -> str | None:
    try:
        from jsonschema import SchemaError, validators
    except ImportError:  # comes with vLLM, but is not named among its direct dependencies
        return None
    try:
        validators.validator_for(schema, default=validators.Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"at {error.json_path}: {error.message}"
    except Exception:  # a schema that trips the checker itself: vLLM's own reason is told instead
        return None
    return None


def _reasons(error: BaseException) -> str:
    """vLLM's message and, since that is often bare, the compiler's below it."""
    messages: list[str] = []
    current: BaseException | None = error
    while current is not None and len(messages) < 4:
        text = _COMPILER_PREFIX.sub("", str(current)[: 2 * MAX_REASON_CHARACTERS]).strip()
        if text and not any(text in message for message in messages):
            messages.append(text)
        current = current.__cause__ or current.__context__
    return ": ".join(messages) or type(error).__name__
