"""What a client's media element is: encoded bytes, base64, a data: URI, or a reference to a file elsewhere.

Pure: nothing is fetched or decoded beyond base64.
"""

from __future__ import annotations

import binascii
import contextlib
import re
from urllib.parse import unquote_to_bytes

import pybase64

from vllm_custom.errors import InvalidRequestError, MediaLimitError, invalid

# RFC 3986, section 3.1. At least two characters, so that nothing of base64 before a colon can be a scheme by chance.
_SCHEME = re.compile(rb"\s*([A-Za-z][A-Za-z0-9+.-]+):")
# RFC 2397: data:[<mediatype>][;base64],<data>
_DATA_URI = re.compile(rb"\s*data:(?P<type>[^,]*?)(?P<base64>;base64)?,(?P<data>.*)", re.IGNORECASE | re.DOTALL)
# Base64 needs few escapes (of +, / and =); taking millions of them apart would keep a thread busy for a minute.
_MAX_ESCAPES = 1_000_000
_WHITESPACE = b" \t\r\n\f\v"
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
    if not element.strip(_WHITESPACE):
        raise InvalidRequestError(f"{field}: is empty; expected {_ACCEPTED}")
    data = _decode(element, field, max_bytes)
    if len(data) > max_bytes:
        raise MediaLimitError(f"{field}: has {len(data)} bytes; MEDIA_MAX_BYTES of this model is {max_bytes}", "bytes")
    return data


def _decode(element: bytes, field: str, max_bytes: int) -> bytes:
    # Small TIFF files can be ASCII throughout; no text holds a NUL.
    if not element.isascii() or b"\0" in element:
        return element
    scheme = scheme_of(element)
    if scheme is None:
        return _base64(element, field, max_bytes)
    if scheme != "data":
        raise not_allowed(field, scheme)
    match = _DATA_URI.match(element)
    if match is None:
        raise invalid(field, element, "data:<media type>;base64,<data> (RFC 2397)")
    data = match.group("data")
    if data.count(b"%") > _MAX_ESCAPES:
        raise InvalidRequestError(f"{field}: a data: URI with more than {_MAX_ESCAPES} percent escapes; send base64")
    plain = unquote_to_bytes(data)
    return _base64(plain, field, max_bytes) if match.group("base64") else plain


def _base64(text: bytes, field: str, max_bytes: int) -> bytes:
    if len(text) > max_bytes * 2:  # base64 is 4/3 of the data, and line breaks are few
        raise MediaLimitError(
            f"{field}: {len(text)} characters of base64; MEDIA_MAX_BYTES of this model is {max_bytes}", "bytes"
        )
    # Python's own decoder would keep the interpreter from the event loop for 60 ms with a file of 15 MB.
    with contextlib.suppress(binascii.Error):
        return pybase64.b64decode(text, validate=True)
    # Line breaks, the URL-safe alphabet, no padding.
    compact = text.translate(None, _WHITESPACE).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return pybase64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(field, text, f"{_ACCEPTED}; it is not valid base64 ({error})") from error
