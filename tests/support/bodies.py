"""Parts of request bodies: media as base64 and data: URIs, chat messages."""

from __future__ import annotations

import base64
import json
from typing import Any


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{b64(data)}"


def user(*parts: dict[str, Any]) -> str:
    return json.dumps([{"role": "user", "content": list(parts)}])


def image_part(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(data)}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
