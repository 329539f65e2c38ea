"""The body of a request: JSON in any Unicode encoding. Of what it says only the model's name is needed here."""

from __future__ import annotations

import codecs
import json

import msgspec

from vllm_custom_frontend import errors

# Bodies up to here are read by Python's own parser as well, where msgspec refuses them, or go on as a text.
_READ_AGAIN_BYTES = 1024 * 1024
# Longer names are of no model, and take long to read.
_LONGEST_NAME_BYTES = 4096
# Each takes ten times as long to read as another character.
_MOST_ESCAPES = 8_000_000
# No other thread has the interpreter while so many are decoded.
_PIECE_BYTES = 512 * 1024


class _Body(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw()


class _Continuing(msgspec.Struct):
    previous_response_id: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Body)
_CONTINUING = msgspec.json.Decoder(_Continuing)


class ValueLimit:
    """Counts the JSON values and escaped characters of a body while it comes: each costs time to read.

    Every value of an array or object follows a comma or an opening bracket. Commas of texts count as well.
    """

    def __init__(self, limit: int, escapes: int = _MOST_ESCAPES) -> None:
        self._limit = limit
        self._most_escapes = escapes
        self._count = self._escapes = 0

    def add(self, chunk: bytes) -> None:
        """Count what is in ``chunk``.

        Raises:
            FrontendError: there are more than allowed.
        """
        self._count += chunk.count(b",") + chunk.count(b"[") + chunk.count(b"{")
        if self._count > self._limit:
            raise errors.too_many_values(self._limit)
        self._escapes += chunk.count(b"\\")
        if self._escapes > self._most_escapes:
            raise errors.too_many_escapes(self._most_escapes)


def in_utf8(body: bytes) -> bytes:
    """``body`` in UTF-8 without a byte order mark, as Triton's model takes it.

    Raises:
        FrontendError: it is in none of the encodings that JSON may have. What was meant is not guessed.
    """
    if body.isascii() and b"\0" not in body[:4]:
        return body
    encoding = json.detect_encoding(body)
    decoder = codecs.getincrementaldecoder(encoding)()
    found: list[bytes] = []
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        try:
            text = decoder.decode(piece, start + len(piece) == len(body))
        except UnicodeDecodeError as error:
            name = encoding.removesuffix("-sig").upper()
            kept = len(error.object) - len(piece)  # of the piece before
            raise errors.not_unicode(name, error.object[error.start], start - kept + error.start) from error
        if encoding != "utf-8":
            found.append(text.encode())
    return body if encoding == "utf-8" else b"".join(found)


def model_of(body: bytes) -> tuple[str | None, bytes | None]:
    """The model that the body names, and the body as JSON; what is no JSON goes on as a JSON string.

    Args:
        body: UTF-8, as :func:`in_utf8` gives it.

    Raises:
        FrontendError: it is long and no JSON object, or the name is longer than that of any model.
    """
    if not body:
        return None, None
    try:
        name = bytes(_DECODER.decode(body).model)
    except (msgspec.DecodeError, RecursionError) as error:  # also of what is no object: it is not read to its end
        if len(body) > _READ_AGAIN_BYTES:
            raise errors.no_json_object(str(error)) from error
        return _read_again(body)
    if len(name) > _LONGEST_NAME_BYTES:
        raise errors.unknown_model(name[1:].decode(), [])
    return (json.loads(name) if name.startswith(b'"') else None), body


def previous_response_of(body: bytes | None) -> str | None:
    """The response that a body for /v1/responses continues; None for none.

    Args:
        body: JSON, as :func:`model_of` gives it.
    """
    try:
        given = bytes(_CONTINUING.decode(body or b"{}").previous_response_id)
    except (msgspec.DecodeError, RecursionError):
        return None
    return json.loads(given) if given.startswith(b'"') and len(given) <= _LONGEST_NAME_BYTES else None


def _read_again(body: bytes) -> tuple[str | None, bytes | None]:
    """As :func:`model_of`. Python also reads NaN and halves of surrogate pairs, and the model says what is wrong."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None, json.dumps(body.decode()).encode()
    name = document.get("model") if isinstance(document, dict) else None
    return (name if isinstance(name, str) else None), body
