"""Sound through tritonserver: a tiny model with random weights hears what transformers hears, however it is sent."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from tests.server.client import Client
from tests.server.conftest import Repository
from tests.server.test_media_urls import Files
from tests.server.test_requests import b64

pytestmark = [pytest.mark.server, pytest.mark.engine]

MODEL = "omni"
QUESTION = "What is it?"
RATE = 16_000
TOKENS = 12
Samples = npt.NDArray[np.float32]

CONFIG = """
backend: "vllm_custom"
instance_group [ {{ count: 1, kind: KIND_MODEL }} ]
parameters {{ key: "ALLOWED_MEDIA_DOMAINS" value: {{ string_value: "127.0.0.1:{port}" }} }}
parameters {{ key: "ALLOWED_MEDIA_NETWORKS" value: {{ string_value: "127.0.0.1/32" }} }}
parameters {{ key: "ALLOWED_LOCAL_MEDIA_PATH" value: {{ string_value: "{folder}" }} }}
parameters {{ key: "AUDIO_MAX_SECONDS" value: {{ string_value: "20" }} }}
"""


def tone(hertz: float, rate: int = RATE, seconds: float = 1.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def sound(samples: Samples, file_format: str = "WAV", rate: int = RATE, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


LOW, HIGH = tone(220), tone(880)
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    made = Files("127.0.0.1")
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sounds")


@pytest.fixture(scope="module", autouse=True)
def expected(repository: Repository, load: Callable[[str], None], files: Files, folder: Path) -> list[list[int]]:
    """The model is made and loaded; transformers' token ids for LOW, HIGH and NOISE."""
    cases = []
    for index, samples in enumerate((LOW, HIGH, NOISE)):
        np.save(folder / f"{index}.npy", samples)
        cases.append({"audio": str(folder / f"{index}.npy"), "question": QUESTION})
    (folder / "cases.json").write_text(json.dumps(cases))
    weights = folder / "weights"
    script = Path(__file__).with_name("omni_model.py")
    command = [sys.executable, str(script), str(weights), str(folder / "cases.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    arguments = repository.shapes_args(
        model=str(weights),
        dtype="float32",
        max_model_len=2048,
        limit_mm_per_prompt={"audio": 2, "image": 1, "video": 1},
    )
    repository.add(MODEL, CONFIG.format(port=files.port, folder=folder), arguments)
    load(MODEL)
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def positions(answer: Any) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = json.loads(answer.body["logprobs"])
    return found


def tokens(client: Client, **body: Any) -> list[int]:
    """The ids of the tokens of a greedy answer."""
    settings = {"temperature": 0, "max_tokens": TOKENS, "logprobs": 0, "return_logprobs": True}
    return [int(next(iter(position))) for position in positions(client.generate(MODEL, **settings, **body))]


def heard(client: Client, data: bytes) -> list[int]:
    return tokens(client, text_input=QUESTION, audio=[b64(data)])


def test_answers_are_those_of_transformers_for_the_same_samples(client: Client, expected: list[list[int]]) -> None:
    answers = [heard(client, sound(samples, subtype="FLOAT")) for samples in (LOW, HIGH, NOISE)]
    assert answers == expected
    assert len({tuple(answer) for answer in answers}) == 3
