"""Messages as clients of several APIs spell them, in the one form that the rest reads. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Keys that say what a part is where it has no type, as vLLM takes it.
_URL_KEYS = ("image_url", "video_url", "audio_url")
_TELLING_KEYS = (*_URL_KEYS, "input_audio")
# The Responses API's parts, by the names that chat completions have for them.
_OTHER_NAMES = {"input_image": "image_url"}

_MAY_BE_NULL = ("text", "refusal")


def as_chat(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same messages, those objects copied that are spelled differently."""
    return [_message(message) for message in messages]


def _message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if isinstance(content, list) and any(_is_other(part) or _is_nothing(part) for part in content):
        message = {**message, "content": [_part(part) for part in content if not _is_nothing(part)]}
    if message.get("reasoning_content") is not None and message.get("reasoning") is None:
        # vLLM's server renames it in the same way; its renderer reads the new name only.
        message = {**message, "reasoning": message["reasoning_content"]}
    return message


def _is_other(part: Any) -> bool:
    return isinstance(part, Mapping) and (_type(part) != part.get("type") or _has_flat_url(part))


def _has_flat_url(part: Mapping[str, Any]) -> bool:
    """Whether the URL of a part is next to its type: {"type": "image_url", "url": ...}."""
    kind = part.get("type")
    return kind in _URL_KEYS and part.get(kind) is None and isinstance(part.get("url"), str)


def _is_nothing(part: Any) -> bool:
    """Whether it is a text that is null, which vLLM leaves out."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return kind in _MAY_BE_NULL and part.get(kind, kind) is None


def _part(part: Any) -> Any:
    if not _is_other(part):
        return part
    if _has_flat_url(part):
        rest = {name: value for name, value in part.items() if name != "url"}
        return {**rest, part["type"]: {"url": part["url"]}}
    return {**part, "type": _type(part)}


def _type(part: Mapping[str, Any]) -> Any:
    kind = part.get("type")
    if kind is None:
        return next((key for key in _TELLING_KEYS if key in part), None)
    return _OTHER_NAMES.get(kind, kind) if isinstance(kind, str) else kind
