"""Texts for logs and answers: no text of a client or a library may keep an answer from being logged and sent."""

import io
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_custom import errors
from vllm_custom.kernel.text import bounded_repr, safe_text, without_url_secrets

# Python's own text has no lone surrogates in it; that of JSON has.
ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs"]))
HOSTILE = st.lists(
    ANY_TEXT | st.sampled_from([" at 0x", "<", ">", "0x7f", "at ", "<function ", "/usr/lib/", "\ud800", "\0"])
).map("".join)


@given(HOSTILE, st.integers(0, 300), st.booleans())
def test_any_text_can_be_encoded_is_bounded_and_holds_no_address(text: str, limit: int, hide_paths: bool) -> None:
    shown = safe_text(text, limit, hide_paths=hide_paths)
    assert len(shown.encode()) <= limit
    assert " at 0x" not in shown
    assert "\0" not in shown


@given(HOSTILE | st.integers().map(lambda count: "x" * (abs(count) % 100_000)))
def test_no_error_holds_what_cannot_be_logged(text: str) -> None:
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, errors.BackendError):
            error = cls(text)
            assert len(str(error).encode()) <= cls.max_bytes
            assert " at 0x" not in str(error)


@given(HOSTILE, HOSTILE)
def test_the_root_cause_of_any_error_is_a_safe_text(first: str, second: str) -> None:
    outer = RuntimeError(first)
    outer.__cause__ = KeyError(second)
    assert " at 0x" not in errors.root_cause(outer)
    assert errors.root_cause(outer).encode() != b""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, 图, \t and\nlines", "plain, 图, \t and\nlines"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ("nul \0 and \x1b[0m", "nul \\x00 and \\x1b[0m"),
        ("<PIL.Image.Image image mode=RGB size=1093x5 at 0x7FC4D0>", "<object>"),
        pytest.param(f"got {io.BytesIO()!r}", "got <object>", id="object"),
        pytest.param(f"got {property()!r} and {len!r}", "got <object> and <object>", id="objects"),
        ("<bound method A.b of <__main__.A object at 0x7f0011223344>>", "<object>"),
        ("cut off <PIL.Image.Image at 0x7f", "cut off <object>"),
        ("freed at 0x55d2 twice", "freed at (address) twice"),
        ("pointer 0x7ffd12345678", "pointer (address)"),
        ("got '0x10' and <image>", "got '0x10' and <image>"),
        ("/usr/lib/python3/x.py and image/png", "/usr/lib/python3/x.py and image/png"),
    ],
)
def test_what_may_leave(text: str, expected: str) -> None:
    assert safe_text(text, 1000) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no file '/models/vl/1/weights/config.json' here", "no file '...' here"),
        ("image/png, 1/2, / and https://example.org/a/b", "image/png, 1/2, / and https://example.org/a/b"),
    ],
)
def test_paths_of_the_machine_are_left_out_of_texts_of_libraries(text: str, expected: str) -> None:
    assert safe_text(text, 1000, hide_paths=True) == expected


def test_long_text_is_cut_and_says_its_length() -> None:
    shown = safe_text("图" * 1_000_000, 100)
    assert len(shown.encode()) <= 100
    assert shown.endswith("... (1000000 characters)")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_objects_that_cannot_be_printed_are_named() -> None:
    assert safe_text(UnprintableError(), 100) == "UnprintableError"
    assert bounded_repr(UnprintableError()) == "a value of type Unprintable" or "UnprintableError" in bounded_repr(
        UnprintableError()
    )
    assert errors.root_cause(UnprintableError()) == "UnprintableError"


@pytest.mark.parametrize(
    "value",
    [
        [0] * 3_000_000,
        {str(key): key for key in range(500_000)},
        ["x" * 30_000_000] * 30,
        [[[[[[1] * 10] * 10]]]] * 10**6,
    ],
    ids=["list", "dict", "strings", "nested"],
)
def test_a_value_of_any_size_is_shown_at_once(value: Any) -> None:
    """The repr of 60 MB of JSON held everybody up for a second."""
    began = time.thread_time()
    assert len(errors.shorten(value)) < 100
    assert time.thread_time() - began < 0.1


def test_an_integer_of_too_many_digits_can_be_shown() -> None:
    assert errors.shorten(10**5000) == "a value of type int"


@pytest.mark.parametrize("value", [{"b": 1, "a": [None, True]}, {}, [b"x"], [(1,), "text"], {"a": {"b": {"c": 1}}}])
def test_ordinary_values_look_as_they_do_in_python(value: Any) -> None:
    assert bounded_repr(value) == repr(value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got 'http://alice:PW@h/x?sig=1#t'", "got 'http://...@h/x?...'"),
        (r"got 'http:\\\\alice:PW@h\\0.png?sig'", r"got 'http:\\\\...@h\\0.png?...'"),
        ('{"url": "s3://a:b@bucket/key?x"}, y', '{"url": "s3://...@bucket/key?..."}, y'),
        ("http://a,http://u:p@b/c?d z?", "http://a,http://...@b/c?... z?"),
        ("http://[u:p@::1/#token=x", "http://...@::1/#..."),
        ("//u:p@h/p", "//...@h/p"),
        ("'http://h/a.p...rity-Token=x'", "'http://h/a.p...'"),
        ("'http://alice:PW...rity-Token=x'", "'http://...'"),
        ("'http://alice:PW...' 'http://...'", "'http://...' 'http://...'"),
        ("'http:\\\\\\\\alice:PW...x', '//alice:PW...'", "'http:\\\\\\\\...', '//...'"),
        ("http://...@h/x?...", "http://...@h/x?..."),
        ('{"id": "//h?x\\\\"", "a": 1}', '{"id": "//h?...\\\\"", "a": 1}'),
        ("http://h/a@b/c", "http://h/a@b/c"),
        ("got 'https://h/x?n='cat.jpg'&sig=S'", "got 'https://h/x?...'"),
        ("['https://u:p'w@h/x', 'https://h/y']", "['https://...@h/x', 'https://h/y']"),
        (r"https:\/\/u:p@h\/x?y=1", r"https:\/\/...@h\/x?..."),
        ("is // a comment? yes", "is // a comment? yes"),
        ("mail a@b?", "mail a@b?"),
    ],
)
def test_urls_lose_what_nobody_else_is_to_know(text: str, shown: str) -> None:
    assert safe_text(text, 200) == shown


def test_a_password_that_is_cut_off_is_left_out() -> None:
    text = "https://h/x?" + "y" * 772 + " https://user:PASSWORD@h/x"
    assert text[:800].endswith("PA")
    assert "PA" not in safe_text(text, 200)


@pytest.mark.parametrize(
    "text", ["/" * 200_000, "//a" * 60_000, "?#" * 90_000 + "//", "//" + "@" * 200_000, "a'" * 90_000 + "//"]
)
def test_what_looks_like_many_urls_takes_linear_time(text: str) -> None:
    began = time.process_time()
    without_url_secrets(text)
    assert time.process_time() - began < 2
