"""A wrong configuration fails the model's load, with a message that names the file and the key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.client import Answer, Client
from tests.support.servers import Repository

BACKEND = 'backend: "vllm_custom"\n'


def parameter(key: str, value: str) -> str:
    return f'{BACKEND}parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'


# name -> (config.pbtxt, model.json as content, text or None, words of the message)
WRONG: dict[str, tuple[str, Any, list[str]]] = {
    "no_model_json": (BACKEND, None, ["model.json", "missing"]),
    "unknown_argument": (
        BACKEND,
        {"model": "x", "max_model_length": 5},
        ["model.json", "max_model_length", "max_model_len"],
    ),
    "unknown_parameter": (parameter("IMAGE_MAX_PIXEL", "5"), {"model": "x"}, ["IMAGE_MAX_PIXEL", "IMAGE_MAX_PIXELS"]),
    "engine_argument_as_parameter": (parameter("max_model_len", "5"), {"model": "x"}, ["max_model_len", "model.json"]),
    "bad_bool": (
        parameter("REPORT_CUSTOM_METRICS", "maybe"),
        {"model": "x"},
        ["REPORT_CUSTOM_METRICS", "maybe", "true"],
    ),
    "bad_number": (parameter("MEDIA_MAX_BYTES", "0"), {"model": "x"}, ["MEDIA_MAX_BYTES", "0", "at least 1"]),
    "no_lora_file": (BACKEND, {"model": "x", "enable_lora": True}, ["multi_lora.json", "missing"]),
    "no_base": (parameter("VLLM_BACKEND_DIR", "/nowhere"), {"model": "x"}, ["VLLM_BACKEND_DIR", "model.py"]),
    "bad_template": (parameter("CHAT_TEMPLATE", "none.jinja"), {"model": "x"}, ["CHAT_TEMPLATE", "none.jinja"]),
    "response_cache": (
        f"{BACKEND}model_transaction_policy {{ decoupled: false }} response_cache {{ enable: true }}\n",
        {"model": "x"},
        ["config.pbtxt: response_cache: expected enable: false", "max_tokens, seed, lora_name"],
    ),
}


@pytest.fixture(scope="module")
def answers(repository: Repository, client: Client) -> dict[str, Answer]:
    """What Triton says to each load. Two at a time: most of them import vLLM first."""
    for name, (config, engine_args, _) in WRONG.items():
        repository.add(name, config, engine_args)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(WRONG, pool.map(client.load, WRONG), strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_the_load_fails_and_says_why(answers: dict[str, Answer], name: str) -> None:
    answer, (_, _, words) = answers[name], WRONG[name]
    assert answer.status == 400, answer.body
    assert [word for word in words if word not in answer.error] == [], answer.error
