"""Hand decoded media to vLLM's chat renderer, and keep vLLM from fetching anything by itself.

vLLM resolves the URLs in chat messages through a "media connector". Ours knows only handles
(:mod:`vllm_custom.media.handles`). Every other URL is refused, so vLLM's own fetcher, which would follow any URL,
never runs.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from vllm_custom.engine.protocol import MediaHandles
from vllm_custom.engine.vllm.older import find, has

CONNECTOR_NAME = "vllm_custom"


def install_connector(table: MediaHandles, max_pixels: int, render_seconds: int) -> None:
    """Make vLLM resolve media through ``table``, and hold its own image reader and templates to our limits.

    Call it before the engine starts: vLLM may cache its environment.

    Args:
        table: media that are decoded, or promised.
        max_pixels: IMAGE_MAX_PIXELS.
        render_seconds: RENDER_TIMEOUT_SECONDS, for chat templates of openai_request.
    """
    places = ("vllm.multimodal.media.connector", "vllm.multimodal.utils")
    connector = find("MediaConnector", *places)
    os.environ["VLLM_MEDIA_CONNECTOR"] = CONNECTOR_NAME
    os.environ["VLLM_MAX_IMAGE_PIXELS"] = str(max_pixels)
    os.environ["VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT"] = str(render_seconds)

    class HandleConnector(connector):  # type: ignore[misc, valid-type]
        def load_from_url(self, url: str, *_args: Any, **_options: Any) -> Any:
            return table.resolve(url)

        async def load_from_url_async(self, url: str, *_args: Any, **_options: Any) -> Any:
            return await table.resolve_async(url)

        def fetch_image_embedding(self, data: str, *_args: Any, **_options: Any) -> Any:
            return table.resolve(data)

        async def fetch_image_embedding_async(self, data: str, *_args: Any, **_options: Any) -> Any:
            return table.resolve(data)

        # Since vLLM 0.32 these two exist as well; nothing is checked that came as such embeddings, so none passes.
        fetch_audio_embedding = fetch_video_embedding = fetch_image_embedding
        fetch_audio_embedding_async = fetch_video_embedding_async = fetch_image_embedding_async

    if has("MEDIA_CONNECTOR_REGISTRY", *places):
        find("MEDIA_CONNECTOR_REGISTRY", *places).register(CONNECTOR_NAME)(HandleConnector)
    else:  # vLLM 0.11.0 knows of one connector only
        for module in ("vllm.multimodal.utils", "vllm.entrypoints.chat_utils"):
            setattr(importlib.import_module(module), "MediaConnector", HandleConnector)  # noqa: B010 - mypy knows no such name
