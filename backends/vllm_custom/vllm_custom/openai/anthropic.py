"""Images in the form of Anthropic's Messages API, made those of a URL, so that a handle can take its place."""

from __future__ import annotations

from typing import Any

from vllm_custom.media.elements import MediaElement

_KEYS = {"base64": "data", "url": "url"}


def image_of_source(part: dict[str, Any], where: str) -> tuple[MediaElement, dict[str, Any]] | None:
    """The image of a part, and the object that now takes its URL as ``url``; None where the part is of another form.

    The content of the file decides its format, not ``media_type``.
    """
    source = part.get("source")
    if part.get("type") != "image" or not isinstance(source, dict):
        return None
    key = _KEYS.get(str(source.get("type")))
    text = source.get(key) if key is not None else None
    if not isinstance(text, str) or not text:
        return None
    element = MediaElement("image", f"{where}.source.{key}", text.encode("utf-8", "surrogatepass"))
    part["source"] = {"type": "url", "url": ""}
    return element, part["source"]
