"""A model that is no Qwen: LLaVA with random weights. Its answers mean nothing; the number of prompt tokens does."""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.support.client import Client
from tests.support.servers import Loads, Repository
from tests.support.shapes import picture
from tools.installer.paths import CHECKOUT
from tools.installer.server import TritonServer

MODEL = "llava"
HIDDEN_SIZE = 64
TOKENS_PER_PICTURE = 4
CONFIG = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
SHORT = {"temperature": 0, "max_tokens": 3, "return_num_input_tokens": True}
PICTURES = [base64.b64encode(picture(26_000 + index, (56, 56), count=1).encoded()).decode() for index in range(3)]


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("llava")
    # In a process of its own, so that torch is loaded apart from the tests.
    command = [sys.executable, "-m", "tests.support.tiny_models", "llava", str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # vLLM draws the weights itself.
    arguments: dict[str, Any] = {"model": str(folder), "load_format": "dummy", "dtype": "float32"}
    limits = {"enforce_eager": True, "gpu_memory_utilization": 0.3, "max_model_len": 1024, "enable_mm_embeds": True}
    repository.add(MODEL, CONFIG, arguments | limits)
    load(MODEL)


def input_tokens(client: Client, **body: Any) -> int:
    answer = client.generate(MODEL, **body, **SHORT)
    assert answer.status == 200, answer.body
    return int(answer.body["num_input_tokens"])


def test_each_image_is_in_the_prompt(client: Client) -> None:
    text = input_tokens(client, text_input="hi", apply_chat_template=True)
    newline = 1  # of the template, after each picture
    for count in (1, 3):
        tokens = input_tokens(client, text_input="hi", image=PICTURES[:count])
        assert tokens == text + count * (TOKENS_PER_PICTURE + newline)


def test_messages_and_own_placeholders_give_the_same_prompt(client: Client) -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURES[0]}"}},
        {"type": "text", "text": "hi"},
    ]
    by_messages = input_tokens(client, messages=json.dumps([{"role": "user", "content": parts}]))
    assert by_messages == input_tokens(client, text_input="hi", image=PICTURES[:1])
    own = "[user]<image>\nhi[assistant]"
    assert input_tokens(client, text_input=own, image=PICTURES[:1]) == by_messages


def test_placeholders_that_do_not_match_are_told(client: Client) -> None:
    answer = client.generate(MODEL, text_input="<image> and <image>", image=PICTURES)
    assert answer.status == 400
    assert "expected 3 image placeholder(s) (<image>), one for each image that was sent, got 2" in answer.error


def test_embeddings_without_a_grid(client: Client, triton: TritonServer) -> None:
    """The rows are one picture, and take the places that it would have."""
    embeds = np.random.default_rng(1).random((TOKENS_PER_PICTURE, HIDDEN_SIZE), np.float32)
    inputs = []
    for name, values, kind in (
        ("text_input", np.array([b"hi"], dtype=object), "BYTES"),
        ("image_embeds", embeds, "FP32"),
        ("return_num_input_tokens", np.array([True]), "BOOL"),
    ):
        tensor = grpcclient.InferInput(name, values.shape, kind)
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    arrived: queue.Queue[Any] = queue.Queue()
    with grpcclient.InferenceServerClient(triton.grpc_url) as grpc:
        grpc.start_stream(callback=lambda result, error: arrived.put((result, error)))
        grpc.async_stream_infer(MODEL, inputs, parameters={"temperature": 0, "max_tokens": 3})
        result, error = arrived.get(timeout=120)
        grpc.stop_stream()
    assert error is None
    assert result.as_numpy("num_input_tokens")[0] == input_tokens(client, text_input="hi", image=PICTURES[:1])
