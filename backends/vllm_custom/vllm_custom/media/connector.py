"""Hand decoded media to vLLM's chat renderer, and keep vLLM from fetching anything by itself.

vLLM resolves the URLs in chat messages through a "media connector". Ours knows only handles: URLs of a private
scheme that stand for media this backend has decoded already. Every other URL is refused, so vLLM's own fetcher,
which would follow any URL, never runs.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vllm_custom.errors import InvalidRequestError

CONNECTOR_NAME = "vllm_custom"
_PREFIX = "vllm-custom-media:"


class HandleTable:
    """Decoded media by handle. Handles are random, so that no client can name another request's media."""

    def __init__(self) -> None:
        self._items: dict[str, Any] = {}

    @contextmanager
    def lend(self, media: Sequence[Any]) -> Iterator[list[str]]:
        """Handles for ``media`` (decoded pictures, clips, tensors), valid inside the ``with`` block."""
        handles = [f"{_PREFIX}{uuid.uuid4().hex}" for _ in media]
        self._items.update(zip(handles, media, strict=True))
        try:
            yield handles
        finally:
            for handle in handles:
                del self._items[handle]

    def take(self, url: str) -> Any:
        """The media that ``url`` stands for.

        Raises:
            InvalidRequestError: ``url`` is not a handle.
        """
        if url not in self._items:
            raise InvalidRequestError("this media reference was not resolved by the media rules of the model")
        return self._items[url]


def install_connector(table: HandleTable) -> None:
    """Make vLLM resolve media through ``table``. Call it before the engine starts: vLLM may cache its environment."""
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector

    os.environ["VLLM_MEDIA_CONNECTOR"] = CONNECTOR_NAME

    @MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR_NAME)
    class HandleConnector(MediaConnector):  # type: ignore[misc]
        def load_from_url(self, url: str, *_args: Any, **_options: Any) -> Any:
            return table.take(url)

        async def load_from_url_async(self, url: str, *_args: Any, **_options: Any) -> Any:
            return table.take(url)

        def fetch_image_embedding(self, data: str) -> Any:
            return table.take(data)

        async def fetch_image_embedding_async(self, data: str) -> Any:
            return table.take(data)
