"""What browsers forgive in a file and Pillow does not, taken out or put in before Pillow sees it.

Only what the pixels do not depend on: a file that lacks some of them stays damaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
# In addition to the critical ones: transparency, orientation, and the frames of an animation.
_NEEDED = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Texts in which programs write the orientation; profiles and comments are not looked at.
_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
_LONGEST_TEXT = 65_536
_MOST_CHUNKS = 1_000_000
# Would be pixels, if pixels were missing.
_FILLING = b"\xa5" * 64


def without_extras(data: bytes) -> bytes:
    """A PNG without chunks that its pixels do not need, such as texts and profiles of any size, or with wrong sums."""
    if not data.startswith(_PNG):
        return data
    kept = [data[:8]]
    dropped = False
    for start, end, kind in _chunks(data):
        chunk = memoryview(data)[start:end]
        if _is_critical(kind) or (_is_needed(chunk, kind) and _sum_is_right(chunk)):
            kept.append(bytes(chunk))
        else:
            dropped = True
    return b"".join(kept) if dropped else data


def with_end(data: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image | None:
    """What ``decode`` makes of a JPEG whose end marker is missing, and nothing else; None for any other file.

    If pixels were missing as well, what is appended would show in the image.
    """
    if not data.startswith(_JPEG):
        return None
    body = data.rstrip(b"\xff")
    try:
        ended, filled = decode(body + _JPEG_END), decode(body + _FILLING + _JPEG_END)
    except (OSError, SyntaxError, ValueError):
        return None
    return ended if ended.tobytes() == filled.tobytes() else None


def _chunks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and type of each chunk; the last one may be cut off."""
    start = 8
    for _ in range(_MOST_CHUNKS):
        if start >= len(data):
            return
        end = min(start + 12 + int.from_bytes(data[start : start + 4], "big"), len(data))
        kind = data[start + 4 : start + 8]
        yield start, end, kind
        if kind == b"IEND":
            return
        start = end
    yield start, len(data), b"IEND"


def _is_critical(kind: bytes) -> bool:
    return not kind[:1].islower()


def _is_needed(chunk: memoryview, kind: bytes) -> bool:
    if kind in _TEXTS:
        return len(chunk) <= _LONGEST_TEXT and bytes(chunk[8:40]).startswith(_ORIENTATION) and _fits(chunk, kind)
    return kind in _NEEDED


def _fits(chunk: memoryview, kind: bytes) -> bool:
    """Whether a text is short when it is decompressed."""
    if kind == b"tEXt":
        return True
    _, _, packed = bytes(chunk[8:-4]).partition(b"\0")
    if kind == b"iTXt":
        if not packed.startswith(b"\1"):
            return True
        packed = packed.split(b"\0", 3)[-1]
    reader = zlib.decompressobj()
    try:
        reader.decompress(packed[1:] if kind == b"zTXt" else packed, _LONGEST_TEXT)
    except zlib.error:
        return False
    return not reader.unconsumed_tail


def _sum_is_right(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
