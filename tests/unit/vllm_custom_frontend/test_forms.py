"""Forms, as clients send them, become JSON; what is none is refused with a reason."""

from __future__ import annotations

import base64
import json
import os

import pytest
import requests

from tests.support.forms import form
from vllm_custom_frontend.errors import FrontendError
from vllm_custom_frontend.forms import form_as_json, is_form

FILE = b'\r\n--f0rm\r\n,[{"\\' + bytes(range(256)) + b"\r\n--"


def test_fields_are_texts_and_the_file_is_base64() -> None:
    content_type, body = form(FILE, ("model", "whisper"), ("prompt", "Grüße\r\n\r\n"), ("t[]", "a"), ("t[]", "b"))
    read = json.loads(form_as_json(body, content_type))
    assert base64.b64decode(read.pop("file")) == FILE
    assert read == {"model": "whisper", "prompt": "Grüße\r\n\r\n", "t[]": ["a", "b"]}


@pytest.mark.parametrize("size", [0, 1, 3 << 18, (3 << 18) + 1, 2_000_000])
def test_a_file_of_any_length_is_one_text(size: int) -> None:
    content_type, body = form(os.urandom(size), ("a", '"'))
    read = json.loads(form_as_json(body, content_type))
    assert read["a"] == '"'
    assert len(base64.b64decode(read["file"], validate=True)) == size


def test_a_form_of_requests_is_read() -> None:
    data = os.urandom(100_000)
    files = {"file": ("Aufnahme größer.wav", data, "audio/wav")}
    sent = requests.Request("POST", "http://x/", data={"model": "w"}, files=files).prepare()
    assert isinstance(sent.body, bytes)
    read = json.loads(form_as_json(sent.body, sent.headers["content-type"]))
    assert read == {"model": "w", "file": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    "body",
    [
        b'preamble\r\n--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\nepilogue',
        b"--b \t\r\ncontent-disposition:form-data;name=a\r\nX: y\r\n\r\n1\r\n--b--",
    ],
)
def test_forms_of_other_clients_are_read(body: bytes) -> None:
    assert json.loads(form_as_json(body, 'multipart/form-data; charset=utf-8; boundary="b"')) == {"a": "1"}


def test_an_empty_form_has_no_fields() -> None:
    assert form_as_json(b"--b--\r\n", "multipart/form-data; boundary=b") == b"{}"


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("multipart/form-data", b"--b--", "a boundary in its content-type"),
        ("multipart/form-data; boundary=b", b"", "a closing boundary"),
        ("multipart/form-data; boundary=b", form(b"x")[1], "a closing boundary"),
        (form(b"x")[0], form(b"x")[1][:-6], "a closing boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\nno headers\r\n--b--", "headers and an empty line"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: y\r\n\r\n1\r\n--b--", "a name for each field"),
        (form(None, ("file", "text"))[0], form(None, ("file", "text"))[1], "file with a filename"),
        (form(None, ('x"; filename="y', "1"))[0], form(None, ('x"; filename="y', "1"))[1], "no file but file"),
        (form(None, ("a", "x" * 1_100_000))[0], form(None, ("a", "x" * 1_100_000))[1], "at most 1048576 bytes"),
        (form(None, *[("a", "")] * 101)[0], form(None, *[("a", "")] * 101)[1], "at most 100 fields"),
        # Each took seconds, or was an internal error.
        ('multipart/form-data; a="' + ";" * 60_000, b"", "at most 32 parameters in the header content-type"),
        ("multipart/form-data; boundary*" + "9" * 5000 + "=b", b"", "parameters that can be read in the header"),
        (
            form(None)[0],
            form(None, ("a", "1"))[1].replace(b"\r\n\r\n", b'; x="' + b";" * 9000 + b"\r\n\r\n", 1),
            "at most 32",
        ),
        (form(None)[0], form(None, ("a", "é"))[1].replace(b"\xc3", b""), "UTF-8 in the field a"),
    ],
)
def test_what_is_no_form_is_refused(content_type: str, body: bytes, reason: str) -> None:
    with pytest.raises(FrontendError, match=f"^body: expected multipart/form-data with {reason}") as caught:
        form_as_json(body, content_type)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("content_type", "answer"),
    [
        ("multipart/form-data; boundary=b", True),
        ("Multipart/Form-Data;x", True),
        ("application/json", False),
        ("", False),
    ],
)
def test_what_is_a_form(content_type: str, answer: bool) -> None:
    assert is_form(content_type) is answer
