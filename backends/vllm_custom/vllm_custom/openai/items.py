"""Items of the Responses API as clients send them back."""

from __future__ import annotations

from typing import Any

_LISTS = ("content", "summary")


def drop_nulls(body: dict[str, Any]) -> None:
    """Take out what is null in the items of ``input`` and in their parts: OpenAI takes it for absent.

    Clients write answers back with every field that they know. vLLM makes up an id that is absent, and refuses null.
    """
    items = body.get("input")
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            _drop(item)
            for name in _LISTS:
                parts = item.get(name)
                for part in parts if isinstance(parts, list) else []:
                    if isinstance(part, dict):
                        _drop(part)


def _drop(content: dict[str, Any]) -> None:
    for name in [name for name, value in content.items() if value is None]:
        del content[name]
