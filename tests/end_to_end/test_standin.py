"""The stand-in backend, `backend: "vllm"`, in a real tritonserver with a real engine on tiny random models."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.support import one_process
from tests.support.client import Answer, Client
from tests.support.servers import Loads, is_idle, wait_until
from tools.installer import backends, environment
from tools.installer.server import TritonServer

PICTURE_PROMPT = "<|vision_start|><|image_pad|><|vision_end|>Describe the image."
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
LONG: dict[str, Any] = {"temperature": 0, "max_tokens": 15_000, "ignore_eos": True}
GENERATED = 'vllm:generation_tokens_total{model="text",version="1"}'
EVERY_OUTPUT: dict[str, Any] = {
    f"return_{name}": True
    for name in ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
}
FAMILIES = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_to_first_token_seconds",
    "vllm:time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:request_params_n",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("standin")
    subprocess.run([sys.executable, "-m", "tests.support.standin_models", str(folder)], check=True)
    found = environment.current()
    running = TritonServer(
        folder / "repository",
        environment=found,
        backends=backends.assemble(found, folder / "backends"),
        models=["text"],
        log=folder / "server.log",
        env=one_process.ENVIRONMENT,
    )
    with running:
        yield running
        left = running.stop()
    assert left == [], f"processes that had to be ended after tritonserver's own stop: {left}"


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Client:
    return Client(server.http_url, server.metrics_url)


@pytest.fixture
def text(server: TritonServer, client: Client) -> Client:
    """The client, once the model `text` is loaded; one engine at a time is enough for the machine."""
    if not client.is_ready("text"):
        client.unload("embed")
        wait_until(lambda: not client.is_ready("embed"))
        Loads(server, client)("text")
    return client


def picture(color: str = "red", size: tuple[int, int] = (112, 112)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def generated_tokens(client: Client) -> float:
    return client.metrics()[GENERATED]


def engine_is_idle(client: Client) -> bool:
    return is_idle(client, GENERATED)


# What the official backend answers


def test_the_prompt_comes_before_the_answer_unless_excluded(text: Client) -> None:
    whole = text.generate(text_input="hello", **GREEDY)
    assert whole.status == 200
    assert whole.text.startswith("hello")
    alone = text.generate(text_input="hello", exclude_input_in_output=True, **GREEDY)
    assert whole.text == "hello" + alone.text
    assert set(whole.body) == {"model_name", "model_version", "text_output"}


def test_a_stream_adds_up_to_the_whole_answer(text: Client) -> None:
    whole = text.generate(text_input="hello", exclude_input_in_output=True, **GREEDY)
    events = text.stream(text_input="hello", **GREEDY)
    assert len(events) > 1
    assert "".join(event["text_output"] for event in events) == whole.text


def test_parameters_may_be_strings_and_come_as_a_tensor_too(text: Client) -> None:
    numbers = text.generate(text_input="hello", **GREEDY)
    strings = text.generate(text_input="hello", temperature="0", max_tokens="8", ignore_eos="true")
    tensor = text.generate(text_input="hello", sampling_parameters=json.dumps(GREEDY), max_tokens=1)
    assert numbers.text == strings.text == tensor.text


def test_images_are_seen(text: Client) -> None:
    answers = {
        color: text.generate(text_input=PICTURE_PROMPT, image=picture(color), return_num_input_tokens=True, **GREEDY)
        for color in ("red", "blue")
    }
    assert {answer.status for answer in answers.values()} == {200}
    assert answers["red"].text != answers["blue"].text
    assert answers["red"].body["num_input_tokens"] > 16  # 112 x 112 pixels are 16 tokens


def test_two_images(text: Client) -> None:
    answer = text.generate(text_input=PICTURE_PROMPT * 2, image=[picture("red"), picture("blue")], **GREEDY)
    assert answer.status == 200


def test_additional_outputs(text: Client) -> None:
    body = text.generate(text_input="hello", logprobs=0, **EVERY_OUTPUT, **GREEDY).body
    assert body["finish_reason"] == "length"
    assert body["cumulative_logprob"] < 0
    assert body["num_output_tokens"] == 8
    assert body["num_input_tokens"] >= 1
    positions = json.loads(body["logprobs"])
    assert len(positions) == 8
    assert set(next(iter(positions[0].values()))) == {"logprob", "rank", "decoded_token"}


def test_additional_outputs_of_a_stream(text: Client) -> None:
    events = text.stream(text_input="hello", logprobs=0, **EVERY_OUTPUT, **GREEDY)
    assert [event["finish_reason"] for event in events] == ["None"] * (len(events) - 1) + ["length"]
    assert sum(event["num_output_tokens"] for event in events) == 8
    assert sum(len(json.loads(event["logprobs"])) for event in events) == 8


def test_several_sequences(text: Client) -> None:
    body = text.generate(text_input="hello", n=3, seed=7, temperature=1, max_tokens=4, **EVERY_OUTPUT).body
    assert all(len(body[name]) == 3 for name in ("text_output", "finish_reason", "logprobs", "num_output_tokens"))
    assert body["logprobs"] == ["null"] * 3


def test_several_sequences_as_a_stream_keep_their_places(text: Client) -> None:
    request: dict[str, Any] = {
        "text_input": "hello",
        "n": 2,
        "seed": 7,
        "temperature": 1,
        "max_tokens": 6,
        "ignore_eos": True,
    }
    whole = text.generate(exclude_input_in_output=True, **request).body["text_output"]
    events = text.stream(return_num_output_tokens=True, **request)
    assert ["".join(event["text_output"][place] for event in events) for place in (0, 1)] == whole
    assert [sum(event["num_output_tokens"][place] for event in events) for place in (0, 1)] == [6, 6]


def test_structured_outputs(text: Client) -> None:
    choice = json.dumps({"choice": ["red", "blue"]})
    answer = text.generate(text_input="hello", structured_outputs=choice, exclude_input_in_output=True)
    assert answer.text in ("red", "blue")


def test_stop_strings_as_json(text: Client) -> None:
    whole = text.generate(text_input="hello", exclude_input_in_output=True, **GREEDY).text
    middle = whole[len(whole) // 2]
    stop = json.dumps([middle, "\u0000"])
    cut = text.generate(text_input="hello", stop=stop, exclude_input_in_output=True, **GREEDY).text
    assert cut == whole[: whole.index(middle)]


def test_the_completed_configuration_is_the_official_one(text: Client) -> None:
    config = text.config("text")
    assert config["max_batch_size"] == 0
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert [(tensor["name"], tensor["optional"]) for tensor in config["input"]] == [
        ("text_input", False),
        ("image", True),
        ("stream", True),
        ("sampling_parameters", True),
        ("exclude_input_in_output", True),
        *((name, True) for name in EVERY_OUTPUT),
        ("embedding_request", True),
    ]
    assert {tensor["name"]: tensor["dims"] for tensor in config["output"]} == {
        "text_output": [-1],
        "finish_reason": [-1],
        "cumulative_logprob": [-1],
        "logprobs": [-1],
        "num_input_tokens": [1],
        "num_output_tokens": [-1],
    }


# LoRA


def test_an_adapter_changes_the_answer(text: Client) -> None:
    plain = text.generate(text_input="hello", **GREEDY)
    adapted = text.generate(text_input="hello", lora_name="strong", **GREEDY)
    assert adapted.status == 200
    assert adapted.text != plain.text
    assert text.generate(text_input="hello", **GREEDY).text == plain.text


def test_an_unknown_adapter_is_named_with_the_known_ones(text: Client) -> None:
    answer = text.generate(text_input="hello", lora_name="missing")
    assert answer.error == "LoRA missing is not supported, we currently support ['broken', 'strong']"


def test_an_adapter_without_files_leaves_the_engine_alive(text: Client) -> None:
    answer = text.generate(text_input="hello", lora_name="broken")
    assert "'broken' cannot be loaded" in answer.error
    assert text.generate(text_input="hello", **GREEDY).status == 200


# Requests that are wrong

BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "negative temperature": ({"temperature": -1}, "temperature must be non-negative, got -1.0"),
    "unknown parameter": ({"temprature": 1}, "unknown parameter 'temprature'; did you mean temperature?"),
    "wrong type": ({"max_tokens": "many"}, "max_tokens: expected an integer or null, got 'many'"),
    "broken JSON": ({"sampling_parameters": '{"n" 1}'}, "text that is not JSON (Expecting ':'"),
    "not base64": ({"text_input": PICTURE_PROMPT, "image": "?"}, "image[0]: expected an image in base64 ("),
    "not a picture": (
        {"text_input": PICTURE_PROMPT, "image": "eHh4"},
        "expected an image (PNG, JPEG, WebP, ...), got b'xxx'",
    ),
    "no placeholder": ({"image": picture()}, "text_input: the number of image placeholders does not match"),
    "too many pictures": ({"text_input": PICTURE_PROMPT * 3, "image": [picture()] * 3}, "At most 2 image(s)"),
    "bad regex": ({"structured_outputs": '{"regex": "(["}'}, "regex"),
    "unknown constraint": ({"structured_outputs": '{"regx": "a"}'}, "did you mean regex?"),
    "too long": ({"text_input": "1 " * 20_000}, "maximum context length is 16384"),
    "embedding": ({"embedding_request": '{"input": "x"}'}, "does not support 'embed' requests; supported: generate"),
}


@pytest.mark.parametrize(("request_body", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_request_is_told_what_is_wrong(text: Client, request_body: dict[str, Any], message: str) -> None:
    answer = text.generate(**{"text_input": "hello", **request_body})
    assert answer.status == 400
    assert message in answer.error


def test_a_stream_that_is_wrong_gets_the_same_error(text: Client) -> None:
    events = text.stream(text_input="hello", exclude_input_in_output=False)
    # In the official backend's words, which its own tests look for.
    assert events == [
        {"error": "Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed."}
    ]


def test_bad_requests_do_not_disturb_good_ones(text: Client) -> None:
    expected = text.generate(text_input="hello", **GREEDY).text

    def send(index: int) -> Answer:
        if index % 2:
            return text.generate(text_input="hello", sampling_parameters='{"broken')
        return text.generate(text_input="hello", **GREEDY)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(send, range(64)))
    assert {answer.status for answer in answers[1::2]} == {400}
    assert {answer.text for answer in answers[::2]} == {expected}


def test_infer_is_refused_since_the_model_is_decoupled(text: Client) -> None:
    tensor = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
    assert "decoupled" in text.infer("text", [tensor]).error


# Much work at once


def test_a_large_image_and_a_stream_do_not_disturb_each_other(text: Client) -> None:
    body = {"text_input": PICTURE_PROMPT, "image": picture("green", (6000, 6000)), **GREEDY}
    stream = {"text_input": "hello", **GREEDY, "max_tokens": 1500, "return_num_output_tokens": True}
    expected = text.generate(**body)
    assert expected.status == 200, expected.body
    with ThreadPoolExecutor(1) as pool, text.open_stream(**stream) as events:
        tokens = next(events)["num_output_tokens"]
        answer = pool.submit(lambda: text.generate(**body))
        assert tokens + sum(event["num_output_tokens"] for event in events) == 1500
    assert answer.result() == expected


# Metrics


def test_the_official_metrics_are_reported(text: Client) -> None:
    wait_until(lambda: engine_is_idle(text))  # what an earlier test dropped may still be counted
    before = text.metrics()
    text.generate(text_input="hello", **GREEDY)
    labels = '{model="text",version="1"}'
    wait_until(
        lambda: text.metrics()[f"vllm:request_params_n_count{labels}"] > before[f"vllm:request_params_n_count{labels}"]
    )
    after = text.metrics()
    families = {name.partition("{")[0].removesuffix("_count") for name in after if name.startswith("vllm:")}
    assert families >= set(FAMILIES)
    assert after[f"vllm:generation_tokens_total{labels}"] - before[f"vllm:generation_tokens_total{labels}"] == 8


# Loading and unloading

BAD_MODELS = {
    "no_model_json": ("model.json is missing", "no_model_json/1/model.json"),
    "bad_json": ("model.json", "Expecting ':' delimiter at line 3, column 11"),
    "unknown_argument": ("model.json", "'max_model_length'; did you mean max_model_len?"),
    "not_decoupled": ("config.pbtxt: model_transaction_policy.decoupled", "got false"),
    "bad_parameter": ("REPORT_CUSTOM_METRICS", "expected true or false, got 'yes'"),
    "no_adapters": ("multi_lora.json is missing", "enable_lora"),
    "no_weights": ("vLLM could not start", "nothing"),
}


@pytest.fixture(scope="module")
def refusals(client: Client) -> dict[str, Answer]:
    """What Triton says to each load. Two at a time: each of them imports vLLM first."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BAD_MODELS, pool.map(client.load, BAD_MODELS), strict=True))


@pytest.mark.parametrize(("model", "message"), BAD_MODELS.items(), ids=BAD_MODELS.keys())
def test_a_model_that_cannot_load_says_why(refusals: dict[str, Answer], model: str, message: tuple[str, ...]) -> None:
    answer = refusals[model]
    assert answer.status == 400
    assert all(part in answer.error for part in message), answer.error


def test_unloading_lets_requests_finish(text: Client) -> None:
    body = LONG | {"max_tokens": 1500}
    with ThreadPoolExecutor(1) as pool:
        before = generated_tokens(text)
        future = pool.submit(lambda: text.generate(text_input="hello", return_num_output_tokens=True, **body))
        wait_until(lambda: generated_tokens(text) > before)
        assert text.unload("text").status == 200
        assert future.result().body["num_output_tokens"] == 1500
    wait_until(lambda: not text.is_ready("text"))


def test_embeddings(client: Client, server: TritonServer) -> None:
    client.unload("text")
    wait_until(lambda: not engines(server))
    Loads(server, client)("embed")
    request = json.dumps({"input": "a red circle"})
    answer = client.generate("embed", text_input="", embedding_request=request, return_num_input_tokens=True)
    assert answer.status == 200, answer.body
    vector = json.loads(answer.text)
    assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-3)
    tokens = client.generate("embed", text_input="", embedding_request=json.dumps({"input": [1, 2, 3]}))
    assert len(json.loads(tokens.text)) == len(vector)
    wrong = client.generate("embed", text_input="", embedding_request=json.dumps({"input": ["a", "b"]}))
    assert "embedding_request.input: expected a string, or a list of token ids, got ['a', 'b']" in wrong.error
    assert "does not support 'generate'" in client.generate("embed", text_input="hello").error


# Clients that go away. At the end: where a cancellation meets the end of a request, Triton 24.10 may keep the model for
# good, and what follows here needs no unloading.


def test_a_dropped_stream_frees_the_engine(text: Client) -> None:
    with text.open_stream(text_input="hello", **LONG) as events:
        next(events)
    wait_until(lambda: engine_is_idle(text))
    assert text.generate(text_input="hello", **GREEDY).status == 200


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "not streamed"])
def test_a_cancelled_grpc_request_frees_the_engine(text: Client, server: TritonServer, streamed: bool) -> None:
    """Triton does not notice that the client of a plain HTTP generate has gone; of a gRPC stream it does."""
    grpc = pytest.importorskip("tritonclient.grpc")
    before = generated_tokens(text)
    with grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: None)
        inputs = [
            grpc.InferInput("text_input", [1], "BYTES").set_data_from_numpy(np.array([b"hello"], dtype=np.object_)),
            grpc.InferInput("stream", [1], "BOOL").set_data_from_numpy(np.array([streamed])),
        ]
        client.async_stream_infer("text", inputs, parameters=LONG)
        wait_until(lambda: generated_tokens(text) > before)
        client.stop_stream(cancel_requests=True)
        wait_until(lambda: engine_is_idle(text))
    assert generated_tokens(text) - before < LONG["max_tokens"]


def test_a_dead_engine_is_reported_and_unloaded(text: Client, server: TritonServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        before = generated_tokens(text)
        future = pool.submit(lambda: text.generate(text_input="hello", **LONG))
        wait_until(lambda: generated_tokens(text) > before)
        for process in engines(server):
            os.kill(process.pid, signal.SIGKILL)
        assert "engine has died" in future.result().error
    assert "error" in text.generate(text_input="hello").body
    wait_until(lambda: not text.is_ready("text"))


def engines(server: TritonServer) -> list[psutil.Process]:
    """vLLM's engine processes of this server that are alive."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "EngineCor" in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
