"""Sound through tritonserver: a tiny model with random weights hears what transformers hears, however it is sent."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.support.audio import RATE, sound, tone
from tests.support.bodies import b64, data_uri, text_part, user
from tests.support.client import Answer, Client
from tests.support.examples import IMAGE, run_example
from tests.support.media_files import Files
from tests.support.servers import Loads, Repository
from tests.support.shapes import clip, gif, picture
from tools.installer.paths import CHECKOUT
from tools.installer.server import TritonServer

MODEL = "omni"
QUESTION = "What is it?"
TOKENS = 12

CONFIG = """
backend: "vllm_custom"
instance_group [ {{ count: 1, kind: KIND_MODEL }} ]
model_transaction_policy {{ decoupled: false }}
parameters {{ key: "ALLOWED_MEDIA_DOMAINS" value: {{ string_value: "127.0.0.1:{port}" }} }}
parameters {{ key: "ALLOWED_MEDIA_NETWORKS" value: {{ string_value: "127.0.0.1/32" }} }}
parameters {{ key: "ALLOWED_LOCAL_MEDIA_PATH" value: {{ string_value: "{folder}" }} }}
parameters {{ key: "TOOL_CALL_PARSER" value: {{ string_value: "hermes" }} }}
parameters {{ key: "ENABLE_AUTO_TOOL_CHOICE" value: {{ string_value: "true" }} }}
parameters {{ key: "AUDIO_MAX_SECONDS" value: {{ string_value: "20" }} }}
"""


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
def expected(repository: Repository, load: Loads, files: Files, folder: Path) -> list[list[int]]:
    """The model is made and loaded; transformers' token ids for LOW, HIGH and NOISE."""
    cases = []
    for index, samples in enumerate((LOW, HIGH, NOISE)):
        np.save(folder / f"{index}.npy", samples)
        cases.append({"audio": str(folder / f"{index}.npy"), "question": QUESTION})
    (folder / "cases.json").write_text(json.dumps(cases))
    weights = folder / "weights"
    command = [sys.executable, "-m", "tests.support.omni_model", str(weights), str(folder / "cases.json")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    arguments = repository.shapes_args(
        model=str(weights),
        dtype="float32",
        max_model_len=2048,
        max_logprobs=-1,
        limit_mm_per_prompt={"audio": 2, "image": 1, "video": 1},
    )
    repository.add(MODEL, CONFIG.format(port=files.port, folder=folder), arguments)
    load(MODEL)
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def ask(client: Client, **body: Any) -> Answer:
    settings = {"temperature": 0, "max_tokens": TOKENS, "logprobs": 0, "return_logprobs": True}
    return client.generate(MODEL, **(settings | body))


def tokens(answer: Answer) -> list[int]:
    """The ids of the tokens of an answer, of which there is one at least."""
    assert answer.status == 200, answer.body
    assert answer.body["logprobs"] != "[]"
    return [int(next(iter(position))) for position in json.loads(answer.body["logprobs"])]


def heard(client: Client, *sounds: bytes) -> list[int]:
    return tokens(ask(client, text_input=QUESTION, audio=[b64(data) for data in sounds]))


def first_token(client: Client, data: bytes) -> dict[str, float]:
    """Token ids with their log probabilities, for all that the first token may be."""
    body = {"text_input": QUESTION, "audio": [b64(data)], "max_tokens": 1, "logprobs": -1, "return_logprobs": True}
    answer = client.generate(MODEL, temperature=0, **body)
    assert answer.status == 200, answer.body
    (position,) = json.loads(answer.body["logprobs"])
    return {token: entry["logprob"] for token, entry in position.items()}


def test_answers_are_those_of_transformers_for_the_same_samples(client: Client, expected: list[list[int]]) -> None:
    answers = [heard(client, sound(samples, subtype="FLOAT")) for samples in (LOW, HIGH, NOISE)]
    assert answers == expected
    assert len({tuple(answer) for answer in answers}) == 3


def test_every_way_to_send_audio_gives_the_same_answer(
    client: Client, triton: TritonServer, files: Files, folder: Path
) -> None:
    data = sound(NOISE)
    files.files["/noise.wav"] = data
    (folder / "noise.wav").write_bytes(data)
    urls = [data_uri(data, "audio/wav"), f"{files.url}/noise.wav", (folder / "noise.wav").as_uri(), b64(data)]
    bodies: list[dict[str, Any]] = [{"text_input": QUESTION, "audio": [url]} for url in urls]
    parts = [{"type": "audio_url", "audio_url": {"url": url}} for url in urls]
    parts.append({"type": "input_audio", "input_audio": {"data": b64(data), "format": "wav"}})
    bodies += [{"messages": user(part, text_part(QUESTION))} for part in parts]
    prompt = f"<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    bodies.append({"text_input": prompt, "audio": [b64(data)], "exclude_input_in_output": True})
    answers = [ask(client, **body) for body in bodies]
    assert [tokens(answer) for answer in answers] == [tokens(answers[0])] * len(bodies)
    assert _raw_bytes(triton, data) == answers[0].text


def test_flac_holds_the_same_samples(client: Client) -> None:
    assert heard(client, sound(NOISE, "FLAC")) == heard(client, sound(NOISE))


@pytest.mark.parametrize(
    ("file_format", "rate"), [("MP3", RATE), ("OGG", RATE), ("WAV", 8_000), ("WAV", 44_100), ("FLAC", 48_000)]
)
def test_codecs_and_rates_change_little(client: Client, file_format: str, rate: int) -> None:
    reference, other = first_token(client, sound(LOW)), first_token(client, sound(HIGH))
    changed = first_token(client, sound(tone(220, rate=rate), file_format, rate))
    distance = {name: _distance(reference, values) for name, values in (("changed", changed), ("other", other))}
    assert distance["changed"] < 0.25 * distance["other"], distance


def test_several_audio_files_keep_their_order(client: Client) -> None:
    one, two = sound(LOW), sound(NOISE)
    parts = [{"type": "input_audio", "input_audio": {"data": b64(data), "format": "wav"}} for data in (one, two)]
    assert heard(client, one, two) == tokens(ask(client, messages=user(*parts, text_part(QUESTION))))
    assert heard(client, one, two) != heard(client, two, one)


def test_audio_image_and_video_in_one_request(client: Client) -> None:
    drawn, moving, noise = picture(20_001, (112, 112), count=1).encoded(), gif(clip(20_400, "left")), sound(NOISE)
    parts = {
        "image": {"type": "image_url", "image_url": {"url": data_uri(drawn)}},
        "video": {"type": "video_url", "video_url": {"url": data_uri(moving, "image/gif")}},
        "audio": {"type": "input_audio", "input_audio": {"data": b64(noise), "format": "wav"}},
    }
    asked = {"return_num_input_tokens": True}
    by_inputs = ask(client, text_input=QUESTION, image=[b64(drawn)], video=[b64(moving)], audio=[b64(noise)], **asked)
    by_parts = ask(client, messages=user(*parts.values(), text_part(QUESTION)), **asked)
    assert by_inputs.body == by_parts.body
    alone = [ask(client, messages=user(part, text_part(QUESTION)), **asked) for part in parts.values()]
    text = ask(client, messages=user(text_part(QUESTION)), **asked).body["num_input_tokens"]
    added = sum(answer.body["num_input_tokens"] - text for answer in alone)
    assert by_parts.body["num_input_tokens"] == text + added
    turned = ask(client, messages=user(*reversed(parts.values()), text_part(QUESTION)))
    assert tokens(turned) != tokens(by_parts)


def test_media_of_a_request_that_is_refused_late_are_there_for_the_next(client: Client) -> None:
    """vLLM has noted them as sent to its engine by then; the next request came back without a word."""
    samples = tone(330)
    refused = ask(client, text_input=QUESTION, audio=[b64(sound(samples))], logprobs=100_000)
    assert refused.status == 400
    assert "logprobs" in refused.error
    assert heard(client, sound(samples)) == heard(client, sound(samples, "FLAC"))


def test_too_many_audio_files_are_refused_before_any_is_fetched(client: Client, files: Files) -> None:
    before = files.hits
    answer = ask(client, text_input=QUESTION, audio=[f"{files.url}/noise.wav"] * 3)
    assert (answer.status, files.hits) == (400, before)
    assert "audio: expected at most 2 item(s) per prompt (limit_mm_per_prompt of this model), got 3" in answer.error


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (sound(tone(220, seconds=21)), "audio[0]: expected at most 20 seconds (AUDIO_MAX_SECONDS of this model)"),
        (sound(NOISE)[:9000], "audio[0]: the file is truncated"),
        (b"hello " * 100, "audio[0]: expected WAV, FLAC, MP3, AAC, Ogg"),
        (gif(clip(20_400, "left")), "got a GIF image that cannot be decoded as audio"),
    ],
    ids=["long", "cut off", "text", "picture"],
)
def test_what_is_no_audio_is_refused_by_name(client: Client, data: bytes, told: str) -> None:
    answer = ask(client, text_input=QUESTION, audio=[data_uri(data, "audio/wav")])
    assert answer.status == 400
    assert told in answer.error


def _distance(one: dict[str, float], two: dict[str, float]) -> float:
    return sum(abs(math.exp(one[token]) - math.exp(two[token])) for token in one.keys() & two.keys())


def _raw_bytes(triton: TritonServer, data: bytes) -> str:
    inputs = []
    for name, value in (("text_input", QUESTION.encode()), ("audio", data)):
        tensor = grpcclient.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([value], dtype=np.object_))
        inputs.append(tensor)
    with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
        result = connection.infer(MODEL, inputs, parameters={"temperature": 0, "max_tokens": TOKENS})
    text: bytes = result.as_numpy("text_output")[0]
    return text.decode()


def test_the_example_of_tritonclient_over_http_runs(triton: TritonServer, files: Files) -> None:
    """It needs a model with one response for each request. What this one says means nothing."""
    files.files["/shapes.png"] = IMAGE.read_bytes()
    printed = run_example("http_infer.py", triton, MODEL, IMAGE_URL=f"{files.url}/shapes.png")
    assert printed["bytes"] == printed["url"] != ""
    assert printed["tool"] == "paint"
    assert printed["batch"].count("', '") == 3
