"""The embeddings of a prompt's tokens in place of its text: the answers are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open

from tests.support.client import Client
from tests.support.servers import SHAPES_VL, Loads, Repository

pytestmark = pytest.mark.timeout(600)

MODEL = "embedded"
WEIGHTS = SHAPES_VL / "1/weights"
PROMPTS = {"1+1=": "2", "2+3=": "5", "4+4=": "8"}
CONFIG = """
backend: "vllm_custom"
instance_group [ { count: 1, kind: KIND_MODEL } ]
model_transaction_policy { decoupled: false }
"""


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads) -> None:
    repository.add(MODEL, CONFIG, repository.shapes_args(enable_prompt_embeds=True))
    load(MODEL)


@pytest.fixture(scope="module")
def table() -> npt.NDArray[np.float32]:
    """The embedding of each token."""
    with safe_open(WEIGHTS / "model.safetensors", framework="pt") as tensors:
        name = next(name for name in tensors.keys() if name.endswith("embed_tokens.weight"))  # noqa: SIM118
        found: npt.NDArray[np.float32] = tensors.get_tensor(name).float().numpy()
    return found


def embeds(prompt: str, table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    return table[tokenizer.encode(prompt, add_special_tokens=False)]


def tensor(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    return {
        "name": "prompt_embeds",
        "datatype": "FP32",
        "shape": list(values.shape),
        "data": values.reshape(-1).tolist(),
    }


def asked(client: Client, values: npt.NDArray[np.float32]) -> Any:
    settings = {"name": "sampling_parameters", "datatype": "BYTES", "shape": [1], "data": ['{"temperature": 0}']}
    return client.infer(MODEL, [tensor(values), settings])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_answer_is_that_of_the_text(prompt: str, client: Client, table: npt.NDArray[np.float32]) -> None:
    answer = asked(client, embeds(prompt, table))
    assert answer.status == 200, answer.body
    given = client.generate(MODEL, text_input=prompt, exclude_input_in_output=True, temperature=0)
    assert given.text == PROMPTS[prompt]
    (text,) = [output["data"] for output in answer.body["outputs"] if output["name"] == "text_output"]
    assert text == [PROMPTS[prompt]]


def test_another_width_is_refused_before_the_engine_sees_it(client: Client, table: npt.NDArray[np.float32]) -> None:
    answer = asked(client, embeds("2+3=", table)[:, :-1])
    assert answer.status == 400
    assert f"prompt_embeds: expected FP16 or FP32 [tokens, {table.shape[1]}]" in answer.error
