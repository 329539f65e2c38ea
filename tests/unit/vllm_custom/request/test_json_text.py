"""JSON that clients send: limits before it is read, and what is refused that other readers take."""

import gc
import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fakes
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request.json_text import is_deeper, parse_json
from vllm_custom.request.rules import ClientRules

RULES = ClientRules()


def rules(**limits: int) -> ClientRules:
    return ClientRules(limits={**RULES.limits, **limits})


def read(text: bytes | str, of: ClientRules = RULES) -> Any:
    return parse_json(text, "field", "JSON", of)


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, true, "\\ud83d\\ude00 \\u00e9"]}', "[]", "1", '"a"', " {} "])
@pytest.mark.parametrize("encoded", [True, False])
def test_json_is_read(text: str, encoded: bool) -> None:
    assert read(text.encode() if encoded else text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, NaN]", "NaN at byte 4 is not JSON"),
        ('{"a": -Infinity}', "Infinity at byte 7 is not JSON"),
        ('{"a": "\\ud800"}', "the lone surrogate \\ud800 at byte 7"),
        ('{"\\uDC00": 1}', "the lone surrogate \\uDC00 at byte 2"),
        ('["\\ud83dx"]', "the lone surrogate \\ud83d at byte 2"),
        ('["\ud800"]', "a lone surrogate at character 2"),
        (b'["\xed\xa0\x80"]', "not UTF-8"),
        (b"\xff", "JSON is malformed: invalid character (byte 0)"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "JSON is malformed: invalid character (byte 0)"),
        ('{"a": 1,}', "trailing comma in object (byte 8)"),
        ("", "Input data was truncated"),
        ("9" * 5000, "Integer value out of range"),
        ("1e999", "Number out of range"),
    ],
)
def test_what_is_no_json_is_refused_and_its_place_told(text: bytes | str, told: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        read(text)
    assert str(error.value).startswith("field: expected JSON (")
    assert told in str(error.value)
    str(error.value).encode()


@pytest.mark.parametrize(
    ("text", "limit", "allowed"),
    [
        ('"aaaa"', "REQUEST_MAX_JSON_BYTES", 6),
        ("[1,2,3]", "REQUEST_MAX_JSON_VALUES", 3),
        ('{"a":{"b":1}}', "REQUEST_MAX_JSON_VALUES", 4),
        ('[{"a":[1]}]', "REQUEST_MAX_JSON_DEPTH", 3),
        ("[" * 300 + "]" * 300, "REQUEST_MAX_JSON_DEPTH", 300),
    ],
)
def test_limits_hold_and_are_named(text: str, limit: str, allowed: int) -> None:
    assert read(text, rules(**{limit: allowed})) == json.loads(text)
    with pytest.raises(
        InvalidRequestError, match=rf"^field: expected at most {allowed - 1} .*\({limit} of this model\)"
    ):
        read(text, rules(**{limit: allowed - 1}))


def test_brackets_in_strings_are_no_depth() -> None:
    assert read(json.dumps(["[" * 1000])) == ["[" * 1000]


def test_nesting_beyond_the_reader_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="nested too deep"):
        read("[" * 100_000)


def test_too_much_is_refused_before_it_is_read() -> None:
    """The text is no JSON at all, which only a reader could find out."""
    with pytest.raises(InvalidRequestError, match="REQUEST_MAX_JSON_VALUES"):
        read("," * 10**6)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(_JSON)
def test_what_python_writes_is_read_as_it_was(value: Any) -> None:
    assert read(json.dumps(value)) == value == read(json.dumps(value, ensure_ascii=False).encode())


@given(st.binary() | st.text() | st.text(alphabet='{}[]",:\\ud8019 aNe'))
def test_any_text_is_read_or_refused_and_what_is_read_can_be_written(text: bytes | str) -> None:
    value, error = fakes.outcome(lambda: read(text))
    if error is None:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    else:
        str(error).encode()


@given(_JSON, st.integers(1, 6))
def test_depth_is_that_of_a_plain_count(value: Any, most: int) -> None:
    def depth(node: Any) -> int:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
        return 0 if children is None else 1 + max(map(depth, children), default=0)

    assert is_deeper(value, most) == (depth(value) > most)


def test_deep_values_do_not_recurse() -> None:
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 3):
        value = [value]
    assert is_deeper(value, 100)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf[1]", "\ufeff[1]"])
def test_a_byte_order_mark_is_no_part_of_it(text: bytes | str) -> None:
    """Windows tools write it at the beginning of files."""
    assert read(text) == [1]


def test_the_garbage_collector_does_not_look_at_what_is_being_read() -> None:
    """Eighty thousand small objects took 300 ms in one step, 80 ms without it."""
    text = json.dumps([{"a": [1]}] * 20_000)
    counted: list[str] = []

    def collections(function: Callable[[str], Any]) -> int:
        gc.collect()
        counted.clear()
        assert len(function(text)) == 20_000
        return counted.count("start")

    def note(phase: str, _: Any) -> None:
        counted.append(phase)

    gc.callbacks.append(note)
    try:
        assert 10 * collections(read) < collections(msgspec.json.decode)
    finally:
        gc.callbacks.remove(note)
    assert gc.isenabled()


@pytest.mark.parametrize("encoded", [True, False])
def test_escaped_characters_are_counted_before_they_are_read(encoded: bool) -> None:
    """Sixty-four million of them held the interpreter for half a second."""
    text = json.dumps("\n" * 10)
    given = text.encode() if encoded else text
    assert read(given, rules(REQUEST_MAX_JSON_ESCAPES=10)) == "\n" * 10
    with pytest.raises(InvalidRequestError, match=r"at most 9 backslashes in its JSON \(REQUEST_MAX_JSON_ESCAPES"):
        read(given, rules(REQUEST_MAX_JSON_ESCAPES=9))
