"""What is missing in text that is neither base64 nor a data: URI: the mistakes that guides print and clients repeat.

Pure: looks at the beginning of a text, and says what to send instead. An empty hint where nothing is known of it.
"""

from __future__ import annotations

import re

_FILE_NAME = re.compile(rb"[^\s,;{}<>]*\.[A-Za-z][A-Za-z0-9]{1,4}([?#]\S*)?")
_HOST_AND_PORT = re.compile(rb"\s*[A-Za-z0-9.-]+:[0-9]{1,5}(/\S*)\s*")
_PLACEHOLDER = re.compile(
    rb"[^{}<>$]{0,100}"
    rb"(\{[^{}]{1,100}\}{1,2}|\{\{[^{}]{1,100}\}\}|<[\w -]{1,100}>|\$\{?\w{1,100}\}?|\$\([^()]{1,200}\))"
    rb"[^{}<>$]{0,20}"
)
_ELLIPSIS = (b"...", b"\xe2\x80\xa6")
# What a text that is no data: URI begins with, though it was meant to be one.
_WITHOUT_SCHEME = re.compile(rb"([a-z]+/[a-z0-9.+-]+)?\s*;?\s*base64\s*,", re.IGNORECASE)
_BASE64_ONLY = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}\s*")


def of_text(text: bytes) -> str:
    """For what is not valid base64.

    Args:
        text: its beginning, without whitespace around it.
    """
    if _WITHOUT_SCHEME.match(text):
        return '"data:" and a media type are missing before ";base64,"'
    if text.startswith(b"{") and b'"url"' in text:
        return "the URL itself is missing: an object was sent as text"
    if text.endswith(_ELLIPSIS):
        return "the rest of the data is missing: the text ends with an ellipsis"
    if text[:2] in (b"b'", b'b"') or text[:1] in (b"'", b'"'):
        return "it has quotation marks, as Python prints bytes; decode them to text first"
    if _PLACEHOLDER.fullmatch(text):
        return "a placeholder was not replaced by the data"
    if _FILE_NAME.fullmatch(text):
        return "it looks like the name of a file or a URL without https://; its content or a whole URL is missing"
    return ""


def of_reference(text: bytes) -> str:
    """For what has a scheme that no source takes, by its beginning."""
    return "http:// or https:// is missing" if _HOST_AND_PORT.fullmatch(text) else ""


def of_uri(head: bytes, *, cut: bool) -> str:
    """For a data: URI without a comma.

    Args:
        head: its beginning.
        cut: whether there is more of it.
    """
    if re.search(rb"base64\s*[;:]", head, re.IGNORECASE):
        return 'the comma after "base64" is missing'
    return "" if cut else "the comma and the data are missing"


def of_payload(payload: bytes) -> str:
    """For what follows the comma of a data: URI that does not say base64, where it is base64 all the same.

    Args:
        payload: its beginning. No image, video or audio file has letters and digits only.
    """
    if re.match(rb"\s*base64\s*,", payload, re.IGNORECASE):
        return 'a semicolon is missing before "base64"'
    return 'it looks like base64, and ";base64" is missing before the comma' if _BASE64_ONLY.fullmatch(payload) else ""


def of_base64(payload: bytes) -> str:
    """For the payload of a data: URI that is no base64, by its beginning, without whitespace around it."""
    if payload[:5].lower() == b"data:":
        return '"data:" is there twice'
    return of_text(payload)


def of_decoded(data: bytes) -> str:
    """For what base64 holds, by its beginning: text instead of a file."""
    if data[:5].lower() == b"data:":
        return "a data: URI was encoded as base64 once more"
    return "it was encoded as base64 twice" if len(data) > 32 and _BASE64_ONLY.fullmatch(data) else ""
