"""JSON that clients send: bounded before it is read, and strict.

What comes out has no lone surrogates, no NaN or Infinity, and no number that Python could not write again.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

import msgspec
import numpy as np

from vllm_custom.errors import InvalidRequestError, invalid, shorten
from vllm_custom.request.rules import ClientRules
from vllm_custom.runtime.tuning import without_collections

_BYTE = re.compile(r"\(byte (\d{1,12})\)")
_LONE_SURROGATE = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})|[dD][c-fC-F][0-9a-fA-F]{2})"
)
_BARE_WORDS = (b"NaN", b"Infinity")
_SHORT, _PIECE_BYTES = 1 << 16, 1 << 20


def parse_json(text: bytes | str, name: str, expected: str, rules: ClientRules) -> Any:
    """The value that ``text`` holds.

    Args:
        text: what the client sent.
        name: the field in messages.
        expected: what is accepted, as a phrase that follows the word "expected".
        rules: REQUEST_MAX_JSON_BYTES, _VALUES, _ESCAPES and _DEPTH hold.

    Raises:
        InvalidRequestError: beyond a limit, or not JSON; says where.
    """
    rules.check(name, len(text), "REQUEST_MAX_JSON_BYTES", "bytes of JSON")
    try:
        data = (text.encode() if isinstance(text, str) else text).removeprefix(codecs.BOM_UTF8)
        check_size(data, name, rules)
        with without_collections():
            value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise invalid(name, text, f"{expected} ({_reason(text, error)})") from error
    most = rules.limits["REQUEST_MAX_JSON_DEPTH"]
    # A level takes two characters.
    if len(data) > 2 * most and _count(data, "[{") > most and is_deeper(value, most):
        raise invalid(name, text, f"at most {most} levels of JSON (REQUEST_MAX_JSON_DEPTH of this model)")
    return value


def check_size(text: bytes | str, name: str, rules: ClientRules) -> None:
    """Refuse JSON that is too long, or holds too many values or escaped characters, without reading it.

    Raises:
        InvalidRequestError: names the limit.
    """
    rules.check(name, len(text), "REQUEST_MAX_JSON_BYTES", "bytes of JSON")
    if len(text) > rules.limits["REQUEST_MAX_JSON_VALUES"]:  # a value takes a character at least
        rules.check(name, _count(text, "[{,:"), "REQUEST_MAX_JSON_VALUES", "values in its JSON")
    if len(text) > rules.limits["REQUEST_MAX_JSON_ESCAPES"]:
        rules.check(name, _count(text, "\\"), "REQUEST_MAX_JSON_ESCAPES", "backslashes in its JSON")


def json_object(text: bytes | str, name: str, rules: ClientRules) -> dict[str, Any]:
    """``text`` as a JSON object; ``name`` is the field in messages.

    Raises:
        InvalidRequestError: it is none.
    """
    value = parse_json(text, name, "a JSON object", rules)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{name}: expected a JSON object, got {shorten(value)}")
    return value


def is_deeper(value: Any, most: int) -> bool:
    """Whether objects and lists are inside of each other in more than ``most`` levels."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(most):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
    return bool(level)


def _count(text: bytes | str, characters: str) -> int:
    """How many of ``characters``, which are ASCII, are in ``text``; numpy lets other threads run meanwhile."""
    if len(text) <= _SHORT:
        return sum(text.count(char) if isinstance(text, str) else text.count(ord(char)) for char in characters)
    data = np.frombuffer(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text, np.uint8)
    pieces = (data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES))
    return sum(int(np.count_nonzero(piece == ord(character))) for piece in pieces for character in characters)


def _reason(text: bytes | str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return f"a lone surrogate at character {error.start}"
    data = text.encode() if isinstance(text, str) else text
    if ("surrogate" in str(error) or "truncated" in str(error)) and (found := _LONE_SURROGATE.search(data)):
        return f"the lone surrogate {found.group().decode()} at byte {found.start()}"
    if found_at := _BYTE.search(str(error)):
        place = int(found_at.group(1))
        for word in _BARE_WORDS:
            if data.startswith(word, place):
                return f"{word.decode()} at byte {place} is not JSON"
    return str(error)
