"""What clients send as media, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, overload

from vllm_custom.engine.vision import VisionOptions


@dataclass(frozen=True)
class DecodedMedia:
    """One item, ready for vLLM.

    Attributes:
        data: a PIL image (RGB), for video an array [frames, height, width, 3] with its metadata, for audio an array
            [samples] with its rate in Hz.
        uuid: names everything that decides ``data``: modality, options, and a hash of the file. Our cache and vLLM's
            know the item by it and trust it, so no client may choose it.
    """

    data: Any
    uuid: str


@dataclass(frozen=True)
class MediaElement:
    """One item as the client sent it; ``field`` names it in messages to the client.

    Attributes:
        listed: the frames of a video that came as a list of images, in place of ``raw``.
        options: sizes and frames, for an item in Qwen's form; None for others.
    """

    modality: str
    field: str
    raw: bytes
    listed: tuple[bytes, ...] = ()
    options: VisionOptions | None = None

    @property
    def files(self) -> tuple[tuple[str, bytes], ...]:
        """Name and content of each file that the item is made of."""
        if not self.listed:
            return ((self.field, self.raw),)
        return tuple((f"{self.field}[{index}]", raw) for index, raw in enumerate(self.listed))

    @property
    def part(self) -> str:
        """What the options are keys of, for messages: the part of a message."""
        return self.field.rpartition(".")[0] or self.field


class LoadedMedia(Sequence[DecodedMedia]):
    """The items of one request, in order. Their bytes count as used until :meth:`release`, or to the end of a with."""

    def __init__(self, items: Sequence[DecodedMedia], release: Callable[[], None]) -> None:
        self._items = items
        self._release = release

    def release(self) -> None:
        """The prompt has been rendered: others may have these bytes. A second call does nothing."""
        self._release()
        self._release = nothing

    def __enter__(self) -> LoadedMedia:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @overload
    def __getitem__(self, index: int) -> DecodedMedia: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[DecodedMedia]: ...
    def __getitem__(self, index: int | slice) -> DecodedMedia | Sequence[DecodedMedia]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)


def nothing() -> None:
    """There is no more to release."""
