"""Frames in hand as one file: what ``data:video/jpeg;base64,FRAME,FRAME,...`` holds, on its way to a decoder.

Pure. The file has a magic number, how many frames there are, their sizes, and the frames one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_MAGIC = b"\x00vllm_custom frames\x00"
_NUMBER = struct.Struct("<I")
# More of them are no video that was meant to be sent so, and each is a Python object.
MAX_FRAMES = 10_000


def pack_frames(frames: Sequence[bytes | bytearray]) -> bytes:
    """One file of encoded images."""
    sizes = b"".join(_NUMBER.pack(len(frame)) for frame in frames)
    return b"".join((_MAGIC, _NUMBER.pack(len(frames)), sizes, *frames))


def is_frame_list(data: bytes) -> bool:
    """Whether :func:`pack_frames` wrote it."""
    return data.startswith(_MAGIC)


def unpack_frames(data: bytes) -> list[memoryview]:
    """The frames of a file that may hold anything.

    Raises:
        ValueError: it is not whole.
    """
    table = len(_MAGIC) + _NUMBER.size
    if len(data) < table:
        raise ValueError("no number of frames")
    (count,) = _NUMBER.unpack_from(data, len(_MAGIC))
    start = table + count * _NUMBER.size
    if not 0 < count <= MAX_FRAMES or len(data) < start:
        raise ValueError("no sizes of frames")
    view, frames = memoryview(data), []
    for (size,) in _NUMBER.iter_unpack(view[table:start]):
        frames.append(view[start : start + size])
        start += size
    if start != len(data):
        raise ValueError("frames are missing")
    return frames
