"""Handles: URLs of a private scheme that stand for media which this backend has decoded, or will decode."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vllm_custom.errors import InvalidRequestError, RefusedMediaError

_PREFIX = "vllm-custom-media:"


@dataclass(frozen=True)
class _LazyMedia:
    """Media that are loaded when the renderer asks for them."""

    get: Callable[[int], Awaitable[Any]]
    index: int


class MediaHandles:
    """Media by handle. Handles are random, so that no client can name another request's media."""

    def __init__(self) -> None:
        self._items: dict[str, Any] = {}

    @contextmanager
    def register(self, media: Sequence[Any]) -> Iterator[list[str]]:
        """Handles for ``media`` (decoded images, videos, tensors), valid inside the ``with`` block."""
        with self._registered(media) as handles:
            yield handles

    @contextmanager
    def register_lazy(self, get: Callable[[int], Awaitable[Any]], count: int) -> Iterator[list[str]]:
        """Handles for ``count`` media, valid inside the ``with`` block; ``get(index)`` gives one when it is wanted."""
        with self._registered([_LazyMedia(get, index) for index in range(count)]) as handles:
            yield handles

    @contextmanager
    def _registered(self, items: Sequence[Any]) -> Iterator[list[str]]:
        handles = [f"{_PREFIX}{uuid.uuid4().hex}" for _ in items]
        self._items.update(zip(handles, items, strict=True))
        try:
            yield handles
        finally:
            for handle in handles:
                del self._items[handle]

    def resolve(self, url: str) -> Any:
        """The media that ``url`` stands for, which have been loaded.

        Raises:
            RefusedMediaError: ``url`` is not a handle, or one of media that are not loaded yet.
        """
        item = self._items.get(url)
        if item is None and url.startswith(_PREFIX):
            raise RefusedMediaError(
                "this media reference was not resolved by the media rules of the model: images, videos and audio of "
                "earlier requests (previous_response_id) are not kept; send them again"
            )
        if item is None or isinstance(item, _LazyMedia):
            raise RefusedMediaError("this media reference was not resolved by the media rules of the model")
        return item

    async def resolve_async(self, url: str) -> Any:
        """The media that ``url`` stands for, loaded now if they were registered so.

        Raises:
            RefusedMediaError: ``url`` is not a handle, or its media are refused.
        """
        item = self._items.get(url)
        if not isinstance(item, _LazyMedia):
            return self.resolve(url)
        try:
            return await item.get(item.index)
        except InvalidRequestError as error:
            raise RefusedMediaError(str(error)) from error
