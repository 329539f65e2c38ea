"""Many requests at once, slow media beside streams, clients that leave, and metrics."""

from __future__ import annotations

import functools
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image

from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.openai_cases import MODEL
from tests.support.servers import is_idle, wait_until
from tests.support.shapes import picture
from tests.support.superset import GENERATED
from tools.installer.server import TritonServer

pytestmark = pytest.mark.usefixtures("superset")

DESCRIBE = "Describe the image."
LONG: dict[str, Any] = {"text_input": "2+3=", "temperature": 0, "ignore_eos": True, "max_tokens": 6000}


def large_png() -> str:
    """49 million pixels of noise in blocks: under the limit, and seconds of work to decode."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (700, 700, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((7000, 7000), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return b64(buffer.getvalue())


def test_64_requests_at_once(client: Client) -> None:
    pictures = [picture(23_000 + index, (224, 224)) for index in range(64)]

    def ask(index: int) -> str:
        body = {"text_input": DESCRIBE, "image": [b64(pictures[index].encoded())], "temperature": 0}
        if index % 2:
            return "".join(event["text_output"] for event in client.stream(MODEL, **body))
        return client.generate(MODEL, **body).text

    with ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(ask, range(64)))
    right = sum(text == drawn.answer() for text, drawn in zip(texts, pictures, strict=True))
    assert right >= 62  # the model's own accuracy is measured elsewhere; here every request gets its own answer


def test_the_base_and_two_adapters_in_one_batch_answer_each_in_its_way(client: Client) -> None:
    drawn = picture(23_100, (224, 224), count=2)
    answers = {"": drawn.answer(), "zh": drawn.answer("zh"), "caps": drawn.answer().upper()}
    before = client.metrics().get(GENERATED, 0)
    generated: list[float] = []
    # Nobody reads on before all have begun, and each would go on for 6,000 tokens.
    begun = threading.Barrier(6, action=lambda: generated.append(client.metrics()[GENERATED] - before))

    def ask(adapter: str) -> str:
        body = LONG | {"text_input": DESCRIBE, "image": [b64(drawn.encoded())]}
        text = ""
        with client.open_stream(MODEL, **body | ({"lora_name": adapter} if adapter else {})) as events:
            text += next(events)["text_output"]
            begun.wait(60)
            while len(text) < len(answers[adapter]):
                text += next(events)["text_output"]
        return text[: len(answers[adapter])]

    with ThreadPoolExecutor(6) as pool:
        asked = [*answers, *answers]
        assert list(pool.map(ask, asked)) == [answers[adapter] for adapter in asked]
    assert generated[0] < LONG["max_tokens"], "one of them may have ended before the last began"
    wait_until(functools.partial(is_idle, client, GENERATED))


def test_a_large_image_and_a_stream_do_not_disturb_each_other(client: Client) -> None:
    body = {**LONG, "max_tokens": 2000, "return_num_output_tokens": True}
    image = large_png()
    expected = client.generate(MODEL, text_input=DESCRIBE, image=[image], temperature=0)
    assert expected.status == 200, expected.body
    with ThreadPoolExecutor(1) as pool, client.open_stream(MODEL, **body) as events:
        tokens = next(events)["num_output_tokens"]
        answer = pool.submit(client.generate, MODEL, text_input=DESCRIBE, image=[image], temperature=0)
        assert tokens + sum(event["num_output_tokens"] for event in events) == 2000
    assert answer.result() == expected


def test_a_client_that_leaves_its_stream_frees_the_engine(client: Client) -> None:
    before = client.metrics()[GENERATED]
    with client.open_stream(MODEL, **LONG) as events:
        for _ in range(5):
            next(events)
    _assert_ended_early(client, before)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_cancelled_grpc_call_frees_the_engine(client: Client, triton: TritonServer, streamed: bool) -> None:
    # Triton does not tell the backend of a client that leaves a plain HTTP generate.
    before = client.metrics()[GENERATED]
    with grpcclient.InferenceServerClient(triton.grpc_url) as grpc:
        grpc.start_stream(callback=lambda result, error: None)
        inputs = [
            grpcclient.InferInput("text_input", [1], "BYTES").set_data_from_numpy(np.array([b"2+3="], dtype=object)),
            grpcclient.InferInput("stream", [1], "BOOL").set_data_from_numpy(np.array([streamed])),
        ]
        options = {key: value for key, value in LONG.items() if key != "text_input"}
        grpc.async_stream_infer(MODEL, inputs, parameters=options)
        wait_until(lambda: client.metrics()[GENERATED] > before + 5)
        grpc.stop_stream(cancel_requests=True)
    _assert_ended_early(client, before)


def test_official_metrics_are_reported(client: Client) -> None:
    client.generate(MODEL, text_input="2+3=")
    names = {name.partition("{")[0] for name in client.metrics()}
    assert {"vllm:prompt_tokens_total", "vllm:e2e_request_latency_seconds_count"} <= names


def _assert_ended_early(client: Client, before: float) -> None:
    """The engine comes to rest, and has not generated all that was asked for."""
    wait_until(functools.partial(is_idle, client, GENERATED))
    assert client.metrics()[GENERATED] - before < LONG["max_tokens"]
