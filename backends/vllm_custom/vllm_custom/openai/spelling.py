"""Parts of chat messages in the spellings of other APIs, as vLLM's chat completions name them."""

from __future__ import annotations

from typing import Any

from vllm_custom.errors import InvalidRequestError

_URL_KEYS = ("image_url", "video_url", "audio_url")
# The Responses API's names.
_OTHER_NAMES = {"input_text": "text", "input_image": "image_url"}


def respell(part: dict[str, Any], where: str) -> None:
    """Bring a part of a message into vLLM's form; others stay as they are.

    Args:
        part: is changed.
        where: its place, for messages.

    Raises:
        InvalidRequestError: a part for a URL has null in its place: vLLM would leave it out, and answer about nothing.
    """
    kind = part.get("type")
    if not isinstance(kind, str):
        return
    if kind == "image" and part.get("image_url") is not None and not part.keys() & {"image", "source"}:
        kind = "image_url"
    kind = part["type"] = _OTHER_NAMES.get(kind, kind)
    if kind not in _URL_KEYS:
        return
    value = part.get(kind)
    if value is None:
        value = part.get("url")
        if not isinstance(value, str):
            if kind not in part:  # vLLM refuses it
                return
            raise InvalidRequestError(f'{where}: expected "{kind}": {{"url": "..."}} with a string')
        del part["url"]
    part[kind] = {"url": value} if isinstance(value, str) else value
