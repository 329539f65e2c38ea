"""/v1/audio/transcriptions and /v1/audio/translations: the answers of `vllm serve`, through Triton and past it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.audio import film, greys, sound, tone
from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.forms import send_form
from tests.support.frontend_process import DirectServer, Frontend, HttpAnswer, HttpApi
from tests.support.openai_answers import comparable
from tests.support.servers import Loads, Repository, parameter
from tests.support.vllm_serve import vllm_serve
from tools.installer.paths import CHECKOUT
from tools.installer.server import TritonServer

pytestmark = pytest.mark.timeout(600)

MODEL = "whisper"
TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
LONGEST_SECONDS = 70


class Case(NamedTuple):
    name: str
    file: bytes
    fields: dict[str, str]


LOW, HIGH = sound(tone(220)), sound(tone(880, rate=48_000), rate=48_000)
ENGLISH = {"language": "en", "max_completion_tokens": "12"}
CASES = (
    Case("plain", LOW, ENGLISH),
    Case("another_sound", sound(tone(880)), ENGLISH),
    Case("flac", sound(tone(220), "FLAC"), ENGLISH),
    Case("language_detected", LOW, {"max_completion_tokens": "8"}),
    Case("prompt", LOW, {**ENGLISH, "prompt": "Zwei"}),
    Case("text", LOW, {**ENGLISH, "response_format": "text"}),
    Case("verbose", LOW, {**ENGLISH, "response_format": "verbose_json"}),
    Case("segments", LOW, {**ENGLISH, "response_format": "verbose_json", "timestamp_granularities[]": "segment"}),
    Case("two_chunks", sound(tone(220, 40)), ENGLISH),
    Case("seed", LOW, {**ENGLISH, "temperature": "0.7", "seed": "3"}),
    Case("beams", LOW, {**ENGLISH, "use_beam_search": "true", "n": "2", "max_completion_tokens": "4"}),
    Case("stream", LOW, {**ENGLISH, "stream": "true"}),
    Case("stream_usage", LOW, {**ENGLISH, "stream": "True", "stream_include_usage": "true"}),
    Case("no_number", LOW, {"temperature": "warm"}),
    Case("no_format", LOW, {"response_format": "srt"}),
    Case("no_language", LOW, {"language": "klingon"}),
    Case("stream_of_segments", LOW, {**ENGLISH, "response_format": "verbose_json", "stream": "true"}),
    Case("other_model", LOW, {"model": "nobody"}),
)
ROUTES = (TRANSCRIPTIONS, TRANSLATIONS)


def ask(api: HttpApi, path: str, case: Case) -> HttpAnswer:
    return send_form(api, path, case.file, **{"model": MODEL, **case.fields})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    command = [sys.executable, "-m", "tests.support.whisper_model", str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def expected(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], HttpAnswer]:
    log = tmp_path_factory.mktemp("vllm_serve") / "log"
    given = (f"--model={weights}", f"--served-model-name={MODEL}", "--dtype=float32", "--max-num-seqs=4")
    with vllm_serve(log, *given) as server:
        return {(path, case.name): ask(server, path, case) for path in ROUTES for case in CASES}


@pytest.fixture(scope="module", autouse=True)
def model(weights: Path, expected: Any, repository: Repository, load: Loads) -> None:
    config = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
    config += parameter("SHARE_ENGINE", "true") + parameter("AUDIO_MAX_SECONDS", LONGEST_SECONDS)
    repository.add(MODEL, config, {"model": str(weights), "dtype": "float32", "max_num_seqs": 4})
    load(MODEL)


@pytest.fixture(scope="module")
def direct(model: None, triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectServer]:
    with DirectServer(tmp_path_factory.mktemp("direct") / "log", f"--server={triton.pid}") as made:
        yield made


def of_this_model(answer: HttpAnswer) -> tuple[Any, ...]:
    """Without the names of the other models that the server of these tests may have."""
    status, kind, body = comparable(answer)
    if status == 404:
        body["error"]["message"] = body["error"]["message"].partition(" Valid aliases: ")[0]
    return status, kind, body


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_that_of_vllm_serve(
    path: str, case: Case, expected: dict[tuple[str, str], HttpAnswer], frontend: Frontend, direct: DirectServer
) -> None:
    wanted = of_this_model(expected[path, case.name])
    assert of_this_model(ask(frontend, path, case)) == wanted
    assert of_this_model(ask(direct, path, case)) == wanted


def test_the_cases_are_worth_comparing(expected: dict[tuple[str, str], HttpAnswer]) -> None:
    fine = [answer for answer in expected.values() if answer.status == 200]
    assert len(fine) == 26
    assert len({str(comparable(answer)) for answer in fine}) > 10


def test_another_rate_is_converted_by_our_decoder(frontend: Frontend) -> None:
    """By FFmpeg's resampler, as for all audio; that of vLLM's server differs in the last bits."""
    answer = send_form(frontend, TRANSCRIPTIONS, HIGH, model=MODEL, **ENGLISH)
    assert answer.status == 200, answer.body
    assert answer.json["usage"]["seconds"] == 1


@pytest.mark.parametrize(("file_format", "codec"), [("webm", "libvpx"), ("mp4", "libx264")])
def test_recordings_of_browsers_and_phones_are_taken(file_format: str, codec: str, frontend: Frontend) -> None:
    """Older versions of vLLM answered 500: their decoder knew a container by the name of its file."""
    recording = film(greys(), file_format, codec, audio=tone(440, rate=48_000))
    answer = send_form(frontend, TRANSCRIPTIONS, recording, model=MODEL, **ENGLISH)
    assert answer.status == 200, answer.body
    assert 1 <= answer.json["usage"]["seconds"] <= 2


def test_triton_clients_send_the_fields_as_json(frontend: Frontend, client: Client) -> None:
    fields = {"model": MODEL, "file": b64(LOW), "language": "en", "max_completion_tokens": 12}
    request = json.dumps({"path": TRANSCRIPTIONS, "body": fields})
    answer = client.generate(MODEL, openai_request=request)
    assert answer.status == 200, answer.body
    assert (
        json.loads(answer.body["openai_response"])
        == send_form(frontend, TRANSCRIPTIONS, LOW, model=MODEL, **ENGLISH).json
    )


@pytest.mark.parametrize(
    ("file", "fields", "reason"),
    [
        (sound(tone(220, LONGEST_SECONDS + 1, 8000), rate=8000), {}, "file: expected at most 70 seconds"),
        (b"", {}, "file: expected an audio file"),
        (b"no sound at all", {}, "file: "),
        (LOW[:-2000], {}, "file: the file is truncated"),
        (LOW, {"vllm_xargs": '{"a": 1}'}, "vllm_xargs"),
        (LOW, {"n": "129", "use_beam_search": "true"}, "n: expected at most"),
        (LOW, {"watermarking": "false"}, "watermarking"),
        (None, {}, "file: expected an audio file"),
    ],
)
def test_our_limits_hold(
    file: bytes | None, fields: dict[str, str], reason: str, frontend: Frontend, direct: DirectServer
) -> None:
    for api in (frontend, direct):
        answer = send_form(api, TRANSCRIPTIONS, file, model=MODEL, **fields)
        assert answer.status == 400
        assert reason in answer.json["error"]["message"]
