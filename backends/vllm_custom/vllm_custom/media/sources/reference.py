"""What a client's media element is: encoded bytes, base64, a data: URI, or a reference to a file elsewhere.

Pure: nothing is fetched or decoded beyond base64.
"""

from __future__ import annotations

import binascii
import contextlib
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pybase64

from vllm_custom.errors import InvalidRequestError, MediaLimitError, invalid

# RFC 3986, section 3.1. At least two characters, so that nothing of base64 before a colon can be a scheme by chance.
_SCHEME = re.compile(rb"\s*([A-Za-z][A-Za-z0-9+.-]+):")
_MAX_TYPE = 1000  # bytes of a data: URI before its comma
# Base64 needs few escapes (of +, / and =); taking millions of them apart would keep a thread busy for a minute.
_MAX_ESCAPES = 1_000_000
_PIECE = 1 << 20  # bytes; what is longer is gone through in pieces, between which other threads have their turn
_ESCAPED_PIECE = 1 << 14
_MAX_PADDING = 4
_WHITESPACE = b" \t\r\n\f\v"
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
        raise not_allowed(field, scheme)
    return _data_uri(element, field, max_bytes)


def _is_text(element: bytes) -> bool:
    """Whether it can be a URI or base64. Small TIFF files can be ASCII throughout; no text holds a NUL."""
    return all(piece.isascii() and b"\0" not in piece for piece in _pieces(element))


def _pieces(data: bytes | memoryview) -> Iterator[bytes]:
    return (bytes(data[start : start + _PIECE]) for start in range(0, len(data), _PIECE))


def _data_uri(element: bytes, field: str, max_bytes: int) -> bytes:
    """RFC 2397: data:[<mediatype>][;base64],<data>."""
    head, comma, _ = element[:_MAX_TYPE].partition(b",")
    if not comma:
        raise invalid(field, element, "data:<media type>;base64,<data> (RFC 2397)")
    data = memoryview(element)[len(head) + 1 :]
    escapes = sum(piece.count(b"%") for piece in _pieces(data))
    if escapes > _MAX_ESCAPES:
        message = f"{field}: expected a data: URI of at most {_MAX_ESCAPES} percent escapes, got more; send base64"
        raise InvalidRequestError(message)
    plain = _unescaped(data) if escapes else data
    return _base64(plain, field, max_bytes) if head.lower().endswith(b";base64") else bytes(plain)


def _unescaped(data: memoryview) -> bytes:
    """``data`` with its percent escapes resolved. In short pieces: each holds the interpreter while it is split."""
    plain, start = bytearray(), 0
    while start < len(data):
        piece = bytes(data[start : start + _ESCAPED_PIECE])
        escape = piece.rfind(b"%", len(piece) - 2)
        if escape > 0 and start + len(piece) < len(data):  # its digits may be in the next piece
            piece = piece[:escape]
        plain += unquote_to_bytes(piece)
        start += len(piece)
    return bytes(plain)


def _base64(text: bytes | memoryview, field: str, max_bytes: int) -> bytes:
    if len(text) > max_bytes * 2:
        raise MediaLimitError(
            f"{field}: expected at most {max_bytes} bytes (MEDIA_MAX_BYTES of this model), "
            f"got {len(text)} characters of base64",
            "bytes",
        )
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
        raise invalid(field, bytes(text[:_MAX_TYPE]), f"{_ACCEPTED}; it is not valid base64 ({error})") from error
