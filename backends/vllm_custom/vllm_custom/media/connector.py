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
from vllm_custom.media.image import set_pixel_limit
from vllm_custom.media.loader import DecodedMedia

CONNECTOR_NAME = "vllm_custom"
_PREFIX = "vllm-custom-media:"


class HandleTable:
    """Decoded media by handle. Handles are random, so that no client can name another request's media."""

    def __init__(self) -> None:
        self._items: dict[str, Any] = {}

    @contextmanager
    def lend(self, media: Sequence[DecodedMedia]) -> Iterator[list[str]]:
        """Handles for ``media``, valid inside the ``with`` block."""
        handles = [f"{_PREFIX}{uuid.uuid4().hex}" for _ in media]
        self._items.update(zip(handles, (item.data for item in media), strict=True))
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


def install_connector(table: HandleTable, max_pixels: int) -> None:
    """Make vLLM resolve media through ``table``, and ``max_pixels`` the limit of the libraries that decode pictures.

    Call it before the engine starts: vLLM may cache its environment.
    """
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector

    os.environ["VLLM_MEDIA_CONNECTOR"] = CONNECTOR_NAME
    os.environ["VLLM_MAX_IMAGE_PIXELS"] = str(max_pixels)
    set_pixel_limit(max_pixels)

    @MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR_NAME)
    class HandleConnector(MediaConnector):  # type: ignore[misc]
        def load_from_url(self, url: str, *_args: Any, **_options: Any) -> Any:
            return table.take(url)

        async def load_from_url_async(self, url: str, *_args: Any, **_options: Any) -> Any:
            return table.take(url)
