"""What a client's media element is: encoded bytes, base64, a data: URI, or a reference to a file elsewhere.

Pure: nothing is fetched or decoded beyond base64.
"""

from __future__ import annotations

import binascii
import contextlib
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import numpy as np
import pybase64

from vllm_custom.errors import InvalidRequestError, MediaLimitError, invalid
from vllm_custom.media.decoders.frame_list import MAX_FRAMES, pack_frames
from vllm_custom.media.sources import hints

# RFC 3986, section 3.1. At least two characters, so that nothing of base64 before a colon can be a scheme by chance.
_SCHEME = re.compile(rb"\s*([A-Za-z][A-Za-z0-9+.-]+):")
_MAX_TYPE = 1000  # bytes of a data: URI before its comma
# Base64 needs few escapes (of +, / and =); taking millions of them apart would keep a thread busy for a minute.
_MAX_ESCAPES = 1_000_000
_PIECE = 1 << 20  # bytes; what is longer is gone through in pieces, between which other threads have their turn
_ESCAPED_PIECE = 1 << 14
_MAX_PADDING = 4
_WHITESPACE = b" \t\r\n\f\v"
_REMOVED_FROM_URLS = b"\t\r\n"
_BASE64 = re.compile(rb"; *base64\Z", re.IGNORECASE)
_FRAMES = re.compile(rb"\s*data:\s*video/jpeg\s*;", re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ACCEPTED = "base64, a data: URI or the encoded file's bytes"


def scheme_of(element: bytes) -> str | None:
    """The scheme in lower case where ``element`` begins like a URI; None for base64, and for nearly all files."""
    match = _SCHEME.match(element[:64])
    return match.group(1).decode().lower() if match else None


def not_allowed(field: str, scheme: str, why: str = "") -> InvalidRequestError:
    """The error for a reference of a scheme that this model does not take; ``why`` names the parameter."""
    return InvalidRequestError(
        f"{field}: {scheme}: references are not allowed by this model{why}; expected {_ACCEPTED}"
    )


def encoded_bytes(element: bytes, field: str, max_bytes: int) -> bytes:
    """The encoded file that ``element`` holds.

    Args:
        element: base64 text, a data: URI, or the file itself.
        field: name and index for messages, e.g. ``"image[0]"``.
        max_bytes: largest file that is accepted.

    Raises:
        InvalidRequestError: empty, too large, bad base64, or a reference, which is not resolved here.
    """
    if len(element) > _most_characters(max_bytes):
        raise _too_large(field, len(element), max_bytes)
    if not element[:_MAX_TYPE].strip(_WHITESPACE):
        raise InvalidRequestError(f"{field}: expected {_ACCEPTED}, got an empty element")
    data = _decode(element, field, max_bytes)
    if len(data) > max_bytes:
        raise _too_large(field, len(data), max_bytes)
    return data


def _most_characters(max_bytes: int) -> int:
    """How long an element of ``max_bytes`` can be: base64 is 4/3 of the data, and line breaks and escapes are few."""
    return 2 * max_bytes + 2 * _MAX_ESCAPES + _MAX_TYPE


def _too_large(field: str, size: int, max_bytes: int) -> MediaLimitError:
    message = f"{field}: expected at most {max_bytes} bytes (MEDIA_MAX_BYTES of this model), got {size}"
    return MediaLimitError(message, "bytes")


def _decode(element: bytes, field: str, max_bytes: int) -> bytes:
    if not _is_text(element):
        return element
    scheme = scheme_of(element)
    if scheme is None:
        return _base64(element, field, max_bytes)
    if scheme != "data":
        raise not_allowed(field, scheme, _because(hints.of_reference(element[:_MAX_TYPE])))
    return _data_uri(element, field, max_bytes)


def _is_text(element: bytes) -> bool:
    """Whether it can be a URI or base64. Small TIFF files can be ASCII throughout; no text holds a NUL."""
    return all(piece.isascii() and b"\0" not in piece for piece in _pieces(element))


def _pieces(data: bytes | memoryview) -> Iterator[bytes]:
    return (bytes(data[start : start + _PIECE]) for start in range(0, len(data), _PIECE))


def _data_uri(element: bytes, field: str, max_bytes: int) -> bytes:
    """As browsers read it (WHATWG Fetch, "data: URL processor"): data:[<media type>][;base64],<data>[#<fragment>]."""
    head, comma, _ = element[:_MAX_TYPE].partition(b",")
    if not comma:
        hint = hints.of_uri(head, cut=len(element) > _MAX_TYPE)
        raise invalid(field, element, f"data:<media type>;base64,<data>{_because(hint)}")
    data = _unescaped(_without_fragment(memoryview(element)[len(head) + 1 :]), field)
    media_type = head.translate(None, _REMOVED_FROM_URLS).strip()
    if not _BASE64.search(media_type):
        if hint := hints.of_payload(element[len(head) + 1 : len(head) + _MAX_TYPE]):
            raise invalid(field, element, f"data:<media type>;base64,<data>{_because(hint)}")
        return bytes(data)
    if _FRAMES.match(media_type):
        return _frames(data, field, max_bytes)
    return _base64(data, field, max_bytes, of_uri=True)


def _frames(data: bytes | memoryview, field: str, max_bytes: int) -> bytes:
    """vLLM's form of frames in hand: data:video/jpeg;base64,<frame>,<frame>,..."""
    commas = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(",")).tolist()
    if len(commas) >= MAX_FRAMES:
        raise MediaLimitError(f"{field}: expected at most {MAX_FRAMES} frames in a data: URI, got more", "items")
    view = memoryview(data)
    starts, ends = [0, *(comma + 1 for comma in commas)], [*commas, len(view)]
    frames = []
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        name = f"{field}.frames[{index}]"
        frames.append(_base64(view[start:end], name, max_bytes, of_uri=True))
        if not frames[-1]:
            raise InvalidRequestError(f"{name}: expected an image as base64, got nothing between two commas")
    return pack_frames(frames)


def _without_fragment(data: memoryview) -> memoryview:
    start = 0
    for piece in _pieces(data):
        place = piece.find(b"#")
        if place >= 0:
            return data[: start + place]
        start += len(piece)
    return data


def _because(hint: str) -> str:
    return f" ({hint})" if hint else ""


def _unescaped(data: memoryview, field: str) -> bytes | memoryview:
    """``data`` with its percent escapes resolved. In short pieces: each holds the interpreter while it is split."""
    escapes = sum(piece.count(b"%") for piece in _pieces(data))
    if not escapes:
        return data
    if escapes > _MAX_ESCAPES:
        message = f"{field}: expected a data: URI of at most {_MAX_ESCAPES} percent escapes, got more; send base64"
        raise InvalidRequestError(message)
    plain, start = bytearray(), 0
    while start < len(data):
        piece = bytes(data[start : start + _ESCAPED_PIECE])
        escape = piece.rfind(b"%", len(piece) - 2)
        if escape > 0 and start + len(piece) < len(data):  # its digits may be in the next piece
            piece = piece[:escape]
        plain += unquote_to_bytes(piece)
        start += len(piece)
    return bytes(plain)


def _base64(text: bytes | memoryview, field: str, max_bytes: int, *, of_uri: bool = False) -> bytes:
    if len(text) > max_bytes * 2:
        raise MediaLimitError(
            f"{field}: expected at most {max_bytes} bytes (MEDIA_MAX_BYTES of this model), "
            f"got {len(text)} characters of base64",
            "bytes",
        )
    data = _decoded(text, field, of_uri=of_uri)
    if hint := hints.of_decoded(data[:_MAX_TYPE]):
        raise invalid(field, bytes(text[:_MAX_TYPE]), f"{_ACCEPTED} ({hint})")
    return data


def _decoded(text: bytes | memoryview, field: str, *, of_uri: bool) -> bytes:
    # Python's own decoder would keep the interpreter from the event loop for 60 ms with a file of 15 MB.
    with contextlib.suppress(binascii.Error):
        return pybase64.b64decode(text, validate=True)
    # Line breaks, the URL-safe alphabet, no padding.
    compact = bytearray()
    for piece in _pieces(memoryview(text)):
        compact += piece.translate(_URL_SAFE, _WHITESPACE)
    for _ in range(_MAX_PADDING):
        if compact.endswith(b"="):
            compact.pop()
    compact += b"=" * (-len(compact) % 4)
    try:
        return pybase64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError) as error:
        start = bytes(text[:_MAX_TYPE])
        shown = start.strip() if len(text) <= _MAX_TYPE else start.lstrip()
        reason = (hints.of_base64 if of_uri else hints.of_text)(shown) or str(error)
        raise invalid(field, start, f"{_ACCEPTED}; it is not valid base64 ({reason})") from error
