"""Check OpenAI chat messages and take their media out.

Only the part types below reach vLLM's renderer: it knows more (decoded images, embeddings, media ids of its caches)
that are for code that is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_custom.errors import InvalidRequestError, invalid
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.vision_options import read_options
from vllm_custom.media.vision_parts import VISION_PARTS, vision_element

_ROLES = ("system", "developer", "user", "assistant", "tool")
# Part type to modality; the part's key of the same name holds {"url": ...}.
_MEDIA_PARTS = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
# OpenAI's form for audio holds base64: {"data": ..., "format": ...}.
_INPUT_AUDIO = "input_audio"
# What parts that are none of vLLM's are handed on as.
_HANDED_ON = {_INPUT_AUDIO: "audio_url"} | {kind: f"{kind}_url" for kind in VISION_PARTS}
_EMBEDS_PART = "image_embeds"
# Part type to the key that holds its text.
_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}


def user_message(text: str, media: Sequence[MediaElement]) -> list[dict[str, Any]]:
    """One user message with the media before the text, in the form of :func:`with_handles`' input."""
    kinds = {modality: kind for kind, modality in _MEDIA_PARTS.items()}
    parts: list[dict[str, Any]] = [{"type": kinds[element.modality]} for element in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def media_elements(messages: Sequence[Mapping[str, Any]]) -> list[MediaElement]:
    """Check every message, and list the media of all parts in order.

    Raises:
        InvalidRequestError: names the message and the part.
    """
    elements: list[MediaElement] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.get("role") not in _ROLES:
            raise invalid(f"{where}.role", message.get("role"), f"one of {', '.join(_ROLES)}")
        elements.extend(_content_media(message.get("content"), f"{where}.content"))
    return elements


def with_handles(
    messages: Sequence[Mapping[str, Any]], handles: Sequence[str], uuids: Sequence[str]
) -> list[dict[str, Any]]:
    """The messages, checked before by :func:`media_elements`, their media replaced by handles and content hashes."""
    replacements = iter(zip(handles, uuids, strict=True))

    def replace(part: Any) -> Any:
        if isinstance(part, str):
            return part
        kind = part["type"]
        if kind in _TEXT_PARTS:
            # Nothing else of the part: where it has a uuid, vLLM reads keys like image_embeds in place of the text.
            return {"type": kind, _TEXT_PARTS[kind]: part[_TEXT_PARTS[kind]]}
        url, uuid = next(replacements)
        kind = _HANDED_ON.get(kind, kind)
        return {"type": kind, kind: {"url": url}, "uuid": uuid}

    return [
        dict(message, content=[replace(part) for part in message["content"]])
        if isinstance(message.get("content"), list)
        else dict(message)
        for message in messages
    ]


def with_embeds(
    messages: Sequence[dict[str, Any]], images: Sequence[Sequence[str]], handles: Sequence[str]
) -> list[dict[str, Any]]:
    """The messages with embedded images at the start of the first one's parts.

    Args:
        messages: as :func:`with_handles` gives them.
        images: names of the fields of each image.
        handles: one for each field of each image, in order.
    """
    given = iter(handles)
    parts: list[dict[str, Any]] = []
    for fields in images:
        named = {name: next(given) for name in fields}
        (first, *others) = named.values()
        # vLLM takes a lone tensor by itself, and several by their names.
        parts.append({"type": _EMBEDS_PART, _EMBEDS_PART: named if others else first})
    first_message, *following = messages
    return [dict(first_message, content=[*parts, *first_message["content"]]), *following] if parts else list(messages)


def _content_media(content: Any, where: str) -> list[MediaElement]:
    if content is None or isinstance(content, str):
        return []
    if not isinstance(content, list):
        raise invalid(where, content, "a string or a list of parts")
    return [
        element for index, part in enumerate(content) if (element := _part_media(part, f"{where}[{index}]")) is not None
    ]


def _part_media(part: Any, where: str) -> MediaElement | None:
    if isinstance(part, str):
        return None
    if not isinstance(part, dict):
        raise invalid(where, part, "an object with a type")
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_PARTS:
        key = _TEXT_PARTS[kind]
        if not isinstance(part.get(key), str):
            raise invalid(f"{where}.{key}", part.get(key), "a string")
        return None
    if kind == _INPUT_AUDIO:
        return MediaElement("audio", f"{where}.{kind}.data", _payload(part, kind, "data", where))
    if isinstance(kind, str) and kind in VISION_PARTS:
        return vision_element(part, kind, where)
    if not isinstance(kind, str) or kind not in _MEDIA_PARTS:
        known = (*_TEXT_PARTS, *_MEDIA_PARTS, _INPUT_AUDIO, *VISION_PARTS)
        raise invalid(f"{where}.type", kind, f"one of {', '.join(known)}")
    modality = _MEDIA_PARTS[kind]
    options = read_options(part, modality, where) or None
    return MediaElement(modality, f"{where}.{kind}", _payload(part, kind, "url", where), options=options)


def _payload(part: Mapping[str, Any], kind: str, key: str, where: str) -> bytes:
    """What a media part holds; its format or media type is not asked for, the content decides."""
    value = part.get(kind)
    text = value.get(key) if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidRequestError(f'{where}: expected "{kind}": {{"{key}": "..."}} with a string')
    return text.encode("utf-8", "surrogatepass")
