"""vLLM's application gets forms whose audio has been decoded here, within the limits of all audio."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.audio import sound, tone
from tests.support.bodies import b64, data_uri
from tests.support.fake_engine import FakeEngine
from tests.support.service_harness import Model
from vllm_custom_frontend.forms import form_as_json

PATH = "/v1/audio/transcriptions"
SAMPLES = np.random.default_rng(1).uniform(-1, 1, 16_000).astype(np.float32)
EXACT = sound(SAMPLES, subtype="FLOAT")


def ask(body: Any, path: str = PATH, **parameters: str) -> tuple[int, Any, list[tuple[str, bytes]]]:
    """Status, answer, and what the application got: content types and bodies."""
    got: list[tuple[str, bytes]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        received = (await receive())["body"]
        assert headers["content-length"] == str(len(received))
        got.append((headers["content-type"], received))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    engine = FakeEngine()
    engine.application = application
    with Model(engine, **parameters) as model:
        request = json.dumps({"path": path, "body": body, "headers": {"content-type": "multipart/form-data"}})
        sender = model.submit(text=None, openai_request=request).wait()
        model.settle()
    outputs = {item.name(): item.as_numpy().reshape(-1)[0] for item in sender.sent[0][0].output_tensors()}
    return int(outputs["openai_status"]), json.loads(outputs["openai_response"]), got


@pytest.mark.parametrize("file", [b64(EXACT), data_uri(EXACT, "audio/wav")])
def test_the_samples_reach_the_application_as_they_are(file: str) -> None:
    body = {"file": file, "language": "en", "n": "1", "temperature": 0.5, "stream": False, "t[]": ["word", "segment"]}
    status, _, [(content_type, sent)] = ask(body)
    assert status == 200
    start = sent.index(b"RIFF")
    end = sent.rindex(b"\r\n--")
    samples, rate = soundfile.read(io.BytesIO(sent[start:end]), dtype="float32")
    assert rate == 16_000
    np.testing.assert_array_equal(samples, SAMPLES)
    read = json.loads(form_as_json(sent, content_type))
    read.pop("file")
    expected = {"language": "en", "n": "1", "temperature": "0.5", "stream": "false", "t[]": ["word", "segment"]}
    assert read == expected


def test_a_field_cannot_end_the_form() -> None:
    prompt = '\r\n--x\r\nContent-Disposition: form-data; name="vllm_xargs"\r\n\r\n{}'
    _, _, [(content_type, sent)] = ask({"file": b64(EXACT), "prompt": prompt})
    assert json.loads(form_as_json(sent, content_type)).keys() == {"file", "prompt"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "file: expected an audio file"),
        ({"file": 5}, "file: expected an audio file"),
        ({"file": [b64(EXACT)]}, "file: expected an audio file"),
        ({"file": b64(sound(tone(440, 3)))}, "file: expected at most 2 seconds"),
        ({"file": "http://169.254.169.254/x.wav"}, "file: http: references are not allowed"),
        ({"file": b64(EXACT), 'a"; filename="b': "1"}, "body: expected names of letters"),
        ({"file": b64(EXACT), "a[]": ["b"] * 101}, "body: expected at most 100 fields"),
        ({"file": b64(EXACT), "vllm_xargs": "{}"}, "vllm_xargs"),
        ({"file": b64(EXACT), "n": "1e9"}, "n: expected at most"),
        ({"file": b64(EXACT), "n": ["1", "1e9"]}, "n: expected the field once"),
        ("file=x", "expected JSON"),
        ([1], "expected multipart/form-data with a file"),
    ],
)
def test_what_is_refused_does_not_reach_the_application(body: Any, reason: str) -> None:
    status, document, got = ask(body, AUDIO_MAX_SECONDS="2")
    assert status == 400
    assert reason in document["error"]["message"]
    assert got == []


def test_the_file_is_no_part_of_the_bodys_length() -> None:
    assert ask({"file": b64(EXACT)}, OPENAI_MAX_BODY_BYTES="1000")[0] == 200
    status, document, _ = ask({"file": b64(EXACT), "prompt": "x" * 1001}, OPENAI_MAX_BODY_BYTES="1000")
    assert status == 400
    assert "OPENAI_MAX_BODY_BYTES" in document["error"]["message"]


def test_other_routes_have_no_files() -> None:
    _, _, [(content_type, sent)] = ask({"file": "x"}, "/v1/completions")
    assert content_type == "multipart/form-data"
    assert json.loads(sent) == {"file": "x"}
