"""Decode identical media once: a cache of decoded media, bounded in bytes, and one decoding for all who wait for it.

The key is a hash of the content, so only who has a file's bytes, fetched under the rules or sent, can find it here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from PIL import Image

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.job import IMAGE_BYTES
from vllm_custom.media.metrics import CacheSizeRecord, LookupRecord, Observe, ignore
from vllm_custom.runtime.single_flight import SingleFlight

Decode = Callable[[], Awaitable[Any]]


def decoded_size(data: Any) -> int:
    """Bytes of memory that an image, an array, or a tuple that holds one (with metadata) takes."""
    if isinstance(data, Image.Image):
        return data.width * data.height * IMAGE_BYTES
    if isinstance(data, np.ndarray):
        return data.nbytes
    return sum(decoded_size(part) for part in data) if isinstance(data, tuple) else 0


class MediaCache:
    """Decoded media by key; beyond ``max_bytes`` the least recently used go. For one event loop.

    What is decoded is handed to several requests: none may change it.
    """

    def __init__(self, max_bytes: int, observe: Observe = ignore) -> None:
        """``max_bytes`` of 0 keeps nothing; requests that come at the same time still share one decoding."""
        self._max_bytes = max_bytes
        self._observe = observe
        self._items: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._decodings: SingleFlight[str, Any] = SingleFlight()
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._bytes

    def find(self, key: str) -> Any:
        """What is kept for the content of this key; None if nothing is."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        self._observe(LookupRecord("hit"))
        return self._items[key][0]

    async def get(self, key: str, decode: Decode) -> Any:
        """What ``decode`` gives for the content of this key, from the cache where it is there.

        Raises:
            InvalidRequestError: of the caller's own ``decode``, since messages name the caller's field.
        """
        found = self.find(key)
        if found is not None:
            return found
        shared = key in self._decodings
        self._observe(LookupRecord("shared" if shared else "miss"))
        try:
            return await self._decodings.get(key, lambda: self._decode(key, decode))
        except InvalidRequestError:
            if not shared:
                raise
            return await decode()

    async def _decode(self, key: str, decode: Decode) -> Any:
        data = await decode()
        self._keep(key, data)
        return data

    def _keep(self, key: str, data: Any) -> None:
        size = decoded_size(data)
        if size > self._max_bytes:
            return
        self._items[key] = (data, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._items.popitem(last=False)[1][1]
        self._observe(CacheSizeRecord(self._bytes))
