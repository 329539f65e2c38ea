"""The same requests give the same answers through `vllm serve` and through Triton.

Both run one after the other, with the same engine arguments, and get the requests one at a time and in the same order,
so that batches and caches are the same too.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.server_fixtures import SHAPES_VL, Repository
from tests.support.shapes import number_picture, picture
from tools.installer import environment, ports
from tools.installer.server import child_environment

# Two engines start within the first test's time.
pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.timeout(900)]

MODEL = "like_vllm_serve"
CONFIG = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
ADAPTERS = {name: str(SHAPES_VL / "1" / "lora" / name) for name in ("zh", "caps")}
GENERATION_CONFIG = {
    "temperature": 0.9,
    "top_k": 60,
    "top_p": 0.97,
    "repetition_penalty": 1.05,
    "max_new_tokens": 60,
    "eos_token_id": [492, 490],
}
START_SECONDS = 240
DESCRIBE = "Describe the image."
PICTURES = [picture(24_000 + index, (224, 224)) for index in range(3)]
NUMBER = number_picture(24_100, size=(336, 336), height=80)[0]


@dataclass(frozen=True)
class Case:
    """One request: fields that both servers call alike, and a prompt, or a question with pictures."""

    name: str
    fields: dict[str, Any]
    prompt: str = "2+3="
    pictures: tuple[bytes, ...] = ()
    chat: bool = False
    adapter: str | None = None

    @property
    def templated(self) -> bool:
        return self.chat or bool(self.pictures)


@dataclass(frozen=True)
class Result:
    """What is compared, one element per sequence."""

    texts: list[str]
    finish_reasons: list[str]
    stop_reasons: list[str]
    input_tokens: int
    output_tokens: int
    logprobs: list[float] = field(compare=False, default_factory=list)


def text(name: str, prompt: str = "a red", **fields: Any) -> Case:
    return Case(name, fields, prompt)


def chat(name: str, prompt: str = "How many shapes are there?", **fields: Any) -> Case:
    return Case(name, fields, prompt, chat=True)


def look(name: str, prompt: str = DESCRIBE, pictures: int = 1, adapter: str | None = None, **fields: Any) -> Case:
    return Case(name, fields, prompt, tuple(drawn.encoded() for drawn in PICTURES[:pictures]), adapter=adapter)


HOT = {"temperature": 2.0, "seed": 11, "max_tokens": 40, "ignore_eos": True}
CASES = [
    text("the defaults", seed=1),
    text("the defaults again", "a red", seed=2),
    text("greedy", temperature=0),
    text("greedy, long", "1+1=", temperature=0, max_tokens=50, ignore_eos=True),
    text("hot", **HOT),
    text("hotter", temperature=2.0, seed=12, max_tokens=40),
    text("warm", temperature=0.7, seed=13, max_tokens=40, ignore_eos=True),
    text(
        "no default applies",
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        seed=14,
        max_tokens=40,
        ignore_eos=True,
    ),
    text("top_k", **HOT, top_k=5),
    text("top_k of one", "3+4=", **HOT, top_k=1),
    text("top_p", **HOT, top_p=0.5),
    text("top_k and top_p", **HOT, top_k=20, top_p=0.8),
    text("min_p", **HOT, min_p=0.2),
    text("repetition_penalty", **HOT, repetition_penalty=1.8),
    text("presence_penalty", **HOT, presence_penalty=1.5),
    text("frequency_penalty", **HOT, frequency_penalty=-0.7),
    text("several penalties", **HOT, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.2),
    text("n", **HOT, n=3),
    text("n, greedy", temperature=0, n=1, max_tokens=5),
    text("n of many tokens", "a blue square and", temperature=1.2, seed=15, n=4, max_tokens=25),
    text("stop", **HOT, stop=["a", "e"]),
    text("one stop", **(HOT | {"seed": 16}), stop="o"),
    text("stop that is kept", **HOT, stop=["a", "e"], include_stop_str_in_output=True),
    text("stop of several characters", "a red", temperature=0, max_tokens=40, stop=[" a", "nd"]),
    text("stop_token_ids", **HOT, stop_token_ids=list(range(60, 100))),
    text("n with stops", **HOT, n=3, stop=["a", "s", "1"]),
    text("min_tokens", **(HOT | {"ignore_eos": False}), min_tokens=20),
    text("max_tokens of one", **(HOT | {"max_tokens": 1})),
    text("max_tokens beyond the operator's limit", **(HOT | {"max_tokens": 500})),
    text("it may end", **(HOT | {"ignore_eos": False})),
    text("special tokens are shown", **(HOT | {"seed": 18}), skip_special_tokens=False),
    text("logit_bias", temperature=0, max_tokens=10, ignore_eos=True, logit_bias={"20": 100, "30": 99.5}),
    text("logit_bias beyond its range", temperature=0, max_tokens=10, ignore_eos=True, logit_bias={"21": 5000}),
    text("bad_words", **HOT, bad_words=["a", "5", " red"]),
    text("allowed_token_ids", **HOT, allowed_token_ids=list(range(15, 40))),
    text("logprobs", **HOT, logprobs=3),
    text("logprobs of n", **HOT, logprobs=1, n=2),
    text("logprobs, greedy", temperature=0, logprobs=0, max_tokens=12, ignore_eos=True),
    text("another language", "描述", **HOT),
    text("structured_outputs", **HOT, structured_outputs={"regex": "[a-f]{3}-[0-9]{4}"}),
    chat("a chat"),
    chat("a hot chat", **HOT),
    chat("a chat with logprobs", **HOT, logprobs=2),
    chat("a chat with n", **HOT, n=2),
    look("a picture", temperature=0),
    look("a picture, hot", **HOT),
    look("two pictures", "Describe each image.", 2, temperature=0),
    look("a picture, in Chinese, n", "描述这张图片。", temperature=1.3, seed=17, n=3),
    look("a picture with stops", temperature=0, stop=[",", " and"]),
    look("a picture and a choice", **HOT, structured_outputs={"choice": ["a dog", "a cat", "a bird"]}),
    look("a picture and an adapter", adapter="zh", temperature=0),
    look("a picture and another adapter, hot", adapter="caps", **HOT),
    look("a picture and a limit", **(HOT | {"max_tokens": 3})),
]


class VllmServe:
    """vLLM's own server on a free port, and its answers."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, case: Case) -> Result:
        return self._chat(case) if case.templated else self._complete(case)

    def _complete(self, case: Case) -> Result:
        body = self._post("/v1/completions", {"model": MODEL, "prompt": case.prompt, **case.fields})
        scores = [choice["logprobs"]["token_logprobs"] for choice in body["choices"] if choice.get("logprobs")]
        return self._result(body, [choice["text"] for choice in body["choices"]], scores)

    def _chat(self, case: Case) -> Result:
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(data)}"}} for data in case.pictures
        ]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": case.prompt}]}
        fields = dict(case.fields)
        if "logprobs" in fields:
            fields |= {"logprobs": True, "top_logprobs": fields["logprobs"]}
        body = self._post("/v1/chat/completions", {"model": case.adapter or MODEL, "messages": [message], **fields})
        texts = [choice["message"]["content"] or "" for choice in body["choices"]]
        scores = [
            [entry["logprob"] for entry in choice["logprobs"]["content"]]
            for choice in body["choices"]
            if choice.get("logprobs")
        ]
        return self._result(body, texts, scores)

    @staticmethod
    def _result(body: dict[str, Any], texts: list[str], scores: list[list[float]]) -> Result:
        return Result(
            texts,
            [choice["finish_reason"] for choice in body["choices"]],
            [str(choice["stop_reason"]) for choice in body["choices"]],
            body["usage"]["prompt_tokens"],
            body["usage"]["completion_tokens"],
            [score for sequence in scores for score in sequence],
        )

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{body}: {error.read().decode()}") from error


@contextmanager
def vllm_serve(arguments: dict[str, Any], log: Path) -> Iterator[VllmServe]:
    """Start it with what model.json holds, wait until it answers, and end it."""
    found = environment.current()
    port = ports.choose("127.0.0.1", 0, "", set())
    command = [str(found.python), "-m", "vllm.entrypoints.openai.api_server", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--served-model-name={MODEL}", *(option(*item) for item in arguments.items())]
    command += ["--lora-modules", *(f"{name}={path}" for name, path in ADAPTERS.items())]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=child_environment(found), stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield VllmServe(url)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def option(name: str, value: Any) -> str:
    """An engine argument as vLLM's command line takes it."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return flag
    return f"{flag}={json.dumps(value) if isinstance(value, dict) else value}"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


OUTPUTS = ("finish_reason", "stop_reason", "logprobs", "num_input_tokens", "num_output_tokens")


def triton_body(case: Case) -> dict[str, Any]:
    """The request for generate: what is a list or an object travels as JSON."""
    fields = {
        key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in case.fields.items()
    }
    body = {"text_input": case.prompt, "exclude_input_in_output": True, "parameters": fields}
    body |= {f"return_{name}": True for name in OUTPUTS}
    if case.pictures:
        body["image"] = [b64(data) for data in case.pictures]
    if case.chat:
        fields["apply_chat_template"] = True
    if case.adapter:
        fields["lora_name"] = case.adapter
    return body


def result_of(events: list[dict[str, Any]]) -> Result:
    """One answer, or the events of a stream put together."""
    texts = ["".join(parts) for parts in zip(*(as_list(event["text_output"]) for event in events), strict=True)]
    scores: list[list[float]] = [[] for _ in texts]
    for event in events:
        for sequence, encoded in zip(scores, as_list(event["logprobs"]), strict=True):
            sequence += [next(iter(token.values()))["logprob"] for token in json.loads(encoded) or []]
    reasons = {
        name: [final(parts) for parts in zip(*(as_list(event[name]) for event in events), strict=True)]
        for name in ("finish_reason", "stop_reason")
    }
    return Result(
        texts,
        reasons["finish_reason"],
        reasons["stop_reason"],
        events[0]["num_input_tokens"],
        sum(sum(as_list(event["num_output_tokens"])) for event in events),
        [score for sequence in scores for score in sequence],
    )


def as_list(value: Any) -> list[Any]:
    """Triton's JSON has no lists of one element."""
    return value if isinstance(value, list) else [value]


def final(parts: tuple[Any, ...]) -> str:
    """The reason that ended a sequence, which only one of its pieces has."""
    return next((str(part) for part in parts if str(part) != "None"), "None")


@pytest.fixture(scope="module")
def expected(
    repository: Repository, load: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Result]:
    """The answers of `vllm serve`, which has ended when the model is loaded into Triton."""
    folder = tmp_path_factory.mktemp("vllm_serve")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_CONFIG))
    arguments = repository.shapes_args(
        generation_config=str(folder), enable_lora=True, max_loras=3, max_lora_rank=16, seed=0
    )
    with vllm_serve(arguments, folder / "server.log") as server:
        found = {case.name: server.ask(case) for case in CASES}
    repository.add(MODEL, CONFIG, arguments, multi_lora__json=json.dumps(ADAPTERS))
    load(MODEL)
    return found


@pytest.fixture(scope="module")
def got(client: Client, expected: dict[str, Result]) -> dict[str, Result]:
    results = {}
    for case in CASES:
        answer = client.generate(MODEL, **triton_body(case))
        assert answer.status == 200, (case.name, answer.body)
        results[case.name] = result_of([answer.body])
    return results


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_the_same(case: Case, expected: dict[str, Result], got: dict[str, Result]) -> None:
    assert got[case.name] == expected[case.name]
    assert got[case.name].logprobs == pytest.approx(expected[case.name].logprobs, abs=1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stream_adds_up_to_the_same(case: Case, client: Client, got: dict[str, Result]) -> None:
    streamed = result_of(client.stream(MODEL, **triton_body(case)))
    assert streamed == got[case.name]
    assert streamed.logprobs == pytest.approx(got[case.name].logprobs, abs=1e-3)


def test_the_cases_are_worth_comparing(expected: dict[str, Result]) -> None:
    assert len(expected) == len(CASES) >= 50
    assert len({tuple(result.texts) for result in expected.values()}) > 30
    assert {reason for result in expected.values() for reason in result.finish_reasons} == {"stop", "length"}
    assert sum(len(result.texts) > 1 for result in expected.values()) >= 5
