"""JSON schemas in the form in which xgrammar gets them right."""

from __future__ import annotations

import json
from typing import Any

# Their values are data and not schemas.
_DATA = frozenset({"enum", "const", "default", "examples"})
_LENGTHS = frozenset({"minLength", "maxLength"})
# A string with one of these is not made from its lengths.
_DECIDES = frozenset({"pattern", "format", "enum", "const"})


def lengths_as_patterns(schema: str) -> str:
    """``schema`` with the lengths of its strings written as patterns.

    xgrammar (0.2.8) takes any character but quotes, backslashes and line ends into a string whose length is limited,
    so that tabs and other control characters come out and the text is no JSON. As a pattern the same limit leaves
    them out. What is no schema comes back as it is.
    """
    if not any(f'"{name}"' in schema for name in _LENGTHS):
        return schema
    try:
        return json.dumps(_rewritten(json.loads(schema)))
    except (ValueError, RecursionError):
        return schema


def _rewritten(node: Any) -> Any:
    if isinstance(node, list):
        return [_rewritten(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: value if key in _DATA else _rewritten(value) for key, value in node.items()}
    kinds = made["type"] if isinstance(made.get("type"), list) else [made.get("type")]
    if "string" not in kinds or made.keys() & _DECIDES or not made.keys() & _LENGTHS:
        return made
    low, high = made.get("minLength", 0), made.get("maxLength")
    if not _is_length(low) or not (high is None or (_is_length(high) and low <= high)):
        return made
    plain = {key: value for key, value in made.items() if key not in _LENGTHS}
    return plain | {"pattern": rf'^[^\x00-\x1f"\\]{{{low},{"" if high is None else high}}}$'}


def _is_length(value: Any) -> bool:
    return type(value) is int and value >= 0
