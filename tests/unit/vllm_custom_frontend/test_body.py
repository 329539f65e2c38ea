"""What the frontend makes of a request's body."""

import codecs
import json
import time

import msgspec
import pytest

from vllm_custom_frontend.body import _PIECE_BYTES, ValueLimit, in_utf8, model_of
from vllm_custom_frontend.errors import FrontendError, model_required, shortened, unknown_model

TEXT = '{"model": "shapes", "text": "caf\u00e9 \U0001f600"}'
MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
MARKS |= {"utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("text", [TEXT, '{"model":"shapes"}'])
def test_every_encoding_of_json_with_and_without_a_byte_order_mark(text: str, encoding: str, mark: bool) -> None:
    body = (MARKS[encoding] if mark else b"") + text.encode(encoding)
    assert in_utf8(body) == text.encode()
    assert model_of(in_utf8(body)) == ("shapes", text.encode())


@pytest.mark.parametrize("body", [b'{"text":"caf\xe9"}', b'{"a":"\xff"}', b"\xff\xfe\x00\xd8", b"\x80"])
def test_bytes_in_no_encoding_are_refused_and_not_guessed_at(body: bytes) -> None:
    with pytest.raises(FrontendError, match=r"^body: expected JSON in UTF-8, UTF-16 or UTF-32, got byte 0x") as caught:
        in_utf8(body)
    assert caught.value.status == 400
    assert json.loads(caught.value.document)["error"]["type"] == "BadRequestError"


def test_the_refusal_says_which_byte_is_wrong() -> None:
    with pytest.raises(FrontendError, match="got byte 0xe9 at position 27, which is not UTF-8"):
        in_utf8('{"model": "m", "text": "caf\u00e9"}'.encode("latin-1"))


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("encoding", MARKS)
def test_long_bodies_are_read_in_pieces(encoding: str, mark: bool) -> None:
    """One of 64 MB held everybody up for 0.3 s. Characters do not end where pieces do."""
    text = '{"model":"m","text":"' + "\u20ac\U0001f600x" * 200_000 + '"}'
    body = (MARKS[encoding] if mark else b"") + text.encode(encoding)
    assert len(body) > 3 * _PIECE_BYTES
    assert in_utf8(body) == text.encode()


@pytest.mark.parametrize("offset", range(-2, 3))
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_the_refusal_of_a_long_body_says_which_byte_is_wrong(mark: bytes, offset: int) -> None:
    body = mark + "\u20ac".encode() * _PIECE_BYTES
    body = body[: _PIECE_BYTES + offset] + b"\xff" + body
    with pytest.raises(UnicodeDecodeError) as at_once:
        body.decode()
    with pytest.raises(FrontendError, match=f"at position {at_once.value.start}, which"):
        in_utf8(body)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":"a"}', "a"),
        (b'{"mod\\u0065l":"\\u0061\\""}', 'a"'),
        (b'{"model":"a","model":"b"}', "b"),
        (b'{"model":5}', None),
        (b'{"model":["a"]}', None),
        (b'{"x":{"model":"a"}}', None),
        (b'["model"]', None),
        (b"5", None),
        (b' {"x":1e999,"model":"a"} ', "a"),
        # Python takes these for JSON, and the model says what is wrong.
        (b'{"x":NaN,"model":"a"}', "a"),
        (b'{"x":"\\ud800","model":"a"}', "a"),
        (b'{"model":"\\ud800"}', "\ud800"),
    ],
)
def test_the_model_of_a_body(body: bytes, name: str | None) -> None:
    assert model_of(body) == (name, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":',
        b'{"model":"a"} , "headers": {}',
        b'{"model":"a"}}',
        b'{"a":01}',
        b'{"a":"\n"}',
        b'{"a":"\\x"}',
        b"[1,]",
        b"a=b",
        b"[" * 100_000,
        b'{"a":' + b"[" * 100_000,
        b'["model"] , "path": "/x", "z": [1]',
    ],
)
def test_what_is_no_json_cannot_be_more_than_a_text_in_the_envelope(body: bytes) -> None:
    name, sent = model_of(body)
    assert name is None
    assert msgspec.json.decode(sent or b"") == body.decode()


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a"} , "path": "/x", "z":"' + b"A" * 2_000_000,
        b'["model"] , "path": "/x", "z":"' + b"A" * 2_000_000 + b'"',
        b'"' * 2_000_000,
    ],
)
def test_what_is_long_and_no_json_object_goes_no_further(body: bytes) -> None:
    """64 MB of quotes held the frontend for a second, while they were made a JSON string."""
    with pytest.raises(FrontendError, match=r"^body: expected a JSON object ") as caught:
        model_of(body)
    assert caught.value.status == 400
    assert len(caught.value.document) < 500


def test_a_name_that_no_model_has_is_not_read() -> None:
    with pytest.raises(FrontendError, match=r"^The model `a+\.{3} \(5001 characters\)` does not exist") as caught:
        model_of(b'{"model":"' + b"a" * 5000 + b'"}')
    assert caught.value.status == 404


def test_escaped_characters_are_counted_over_all_chunks() -> None:
    counted = ValueLimit(5, escapes=2)
    counted.add(b'"a\\')
    counted.add(b"nb\\n")
    with pytest.raises(FrontendError, match="at most 2 backslashes") as caught:
        counted.add(b"\\")
    assert caught.value.status == 413


def test_an_empty_body_is_none() -> None:
    assert model_of(in_utf8(b"")) == (None, None)
    assert model_of(in_utf8(codecs.BOM_UTF8)) == (None, None)


def test_values_are_counted_over_all_chunks() -> None:
    counted = ValueLimit(5)
    for chunk in (b'{"a":', b"[1,", b"2,", b"{"):
        counted.add(chunk[:2])
        counted.add(chunk[2:])
    with pytest.raises(FrontendError, match=r"at most 5 JSON values \(--max-body-values\)") as caught:
        counted.add(b",")  # the sixth
    assert caught.value.status == 413


def test_a_million_values_do_not_stop_the_frontend() -> None:
    """json.loads holds the interpreter for half a second."""
    body = b'{"model":"m","prompt":[' + b"1," * 999_000 + b'1],"x":"' + b"A" * 20_000_000 + b'"}'
    counted = ValueLimit(1_000_000)
    began = time.thread_time()
    for start in range(0, len(body), 65536):
        counted.add(body[start : start + 65536])
    assert model_of(in_utf8(body)) == ("m", body)
    assert time.thread_time() - began < 0.5


def test_errors_repeat_names_up_to_a_length() -> None:
    error = unknown_model("x" * 1_000_000, ["y" * 1_000_000, *map(str, range(1000))])
    assert len(error.document) < 1000
    assert "(1000000 characters)" in str(error)
    assert str(error).endswith("and 981 more.")
    assert len(model_required([str(number) for number in range(1000)]).document) < 500


def test_half_a_character_in_a_name_does_not_stop_the_error() -> None:
    assert shortened("a\ud800") == "a\\ud800"
    assert json.loads(unknown_model("\ud800", []).document)["error"]["param"] == "model"
