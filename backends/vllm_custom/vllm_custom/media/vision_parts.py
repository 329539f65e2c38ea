"""Images and videos in the messages of Qwen's documentation: ``{"type": "image", "image": ..., "max_pixels": ...}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.vision_options import read_options

# Types of parts, which are modalities as well; the key of the same name holds the file.
VISION_PARTS = ("image", "video")


def vision_element(part: Mapping[str, Any], kind: str, where: str) -> MediaElement:
    """The image or video of a part.

    Args:
        part: of a message.
        kind: its type, one of :data:`VISION_PARTS`.
        where: names the part in messages.

    Raises:
        InvalidRequestError: it holds no file, or an option that is none.
    """
    value = part.get(kind)
    options = read_options(part, kind, where)
    field = f"{where}.{kind}"
    if isinstance(value, str):
        return MediaElement(kind, field, _encoded(value), options=options)
    if kind == "video" and isinstance(value, list) and value and all(isinstance(frame, str) for frame in value):
        return MediaElement(kind, field, b"", tuple(map(_encoded, value)), options)
    several = ", or a list of such strings, its frames" if kind == "video" else ""
    expected = f"a string: a URL that this model allows, a data: URI or base64{several}"
    raise InvalidRequestError(f'{where}: expected "{kind}" with {expected}')


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
