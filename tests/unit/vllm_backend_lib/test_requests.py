"""Triton requests to typed calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vllm_backend_lib import requests
from vllm_backend_lib.contract import INPUTS, OUTPUTS, Inputs, add_missing_tensors, check_policies
from vllm_backend_lib.kernel import errors

from tests.support.standin_fakes import FakeRequest

pytestmark = pytest.mark.usefixtures("vllm")


def generate(parameters: str = "{}", **tensors: Any) -> requests.InferenceCall:
    request = FakeRequest(parameters, **tensors)
    return requests.parse_generate(request, Inputs(request))


def embed(body: Any, **tensors: Any) -> requests.EmbedCall:
    text = body if isinstance(body, str) else json.dumps(body)
    return requests.parse_embed(Inputs(FakeRequest(embedding_request=text, **tensors)))


def test_a_bare_prompt() -> None:
    call = generate(text_input="héllo")
    assert (call.prompt, call.images, call.stream, call.lora_name) == ("héllo", [], False, None)
    assert call.additional_outputs == frozenset()


@pytest.mark.parametrize(
    ("stream", "exclude", "prepend"),
    [(False, None, True), (False, True, False), (False, False, True), (True, None, False), (True, True, False)],
)
def test_when_the_prompt_comes_before_the_answer(stream: bool, exclude: bool | None, prepend: bool) -> None:
    tensors = {} if exclude is None else {"exclude_input_in_output": exclude}
    assert generate(text_input="x", stream=stream, **tensors).prepend_prompt is prepend


def test_a_stream_cannot_hold_the_prompt() -> None:
    with pytest.raises(
        errors.InvalidRequestError, match=r"^Error generating stream: When streaming, .* = False is not allowed\.$"
    ):
        generate(text_input="x", stream=True, exclude_input_in_output=False)


def test_the_parameters_tensor_wins_over_request_parameters() -> None:
    call = generate('{"max_tokens": 1}', text_input="x", sampling_parameters='{"max_tokens": 2}')
    assert call.sampling_params.max_tokens == 2
    assert generate('{"max_tokens": 1}', text_input="x").sampling_params.max_tokens == 1


@pytest.mark.parametrize(("parameters", "logprobs", "only_added_up"), [("{}", 0, True), ('{"logprobs": 2}', 2, False)])
def test_the_sum_of_logprobs_needs_them(parameters: str, logprobs: int, only_added_up: bool) -> None:
    """vLLM has no cumulative_logprob where nobody asked for logprobs."""
    call = generate(parameters, text_input="x", return_cumulative_logprob=True)
    assert (call.sampling_params.logprobs, call.sums_logprobs) == (logprobs, only_added_up)
    assert generate(text_input="x").sampling_params.logprobs is None


def test_additional_outputs_are_those_that_are_true() -> None:
    call = generate(text_input="x", return_finish_reason=True, return_logprobs=False)
    assert call.additional_outputs == {"finish_reason"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "text_input: required"),
        ({"text_input": ["a", "b"]}, "text_input: expected exactly 1 element, got 2 elements"),
        ({"text_input": []}, "text_input: expected exactly 1 element, got 0 elements"),
        ({"text_input": b"\xff"}, "text_input: expected UTF-8 text (byte 0 is not), got b'\\xff'"),
        (
            {"text_input": "x", "sampling_parameters": "{"},
            "sampling_parameters: expected a JSON object, got text that is not JSON",
        ),
    ],
)
def test_wrong_tensors_are_named(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        generate(**tensors)
    assert message in str(caught.value)


def test_which_adapter_a_request_names() -> None:
    def lora(parameters: str) -> str | None:
        request = FakeRequest(parameters, text_input="x")
        return requests.requested_lora(request, Inputs(request))

    assert lora('{"lora_name": "zh"}') == "zh"
    assert lora('{"lora\\u005fname": "zh"}') == "zh"
    assert lora('{"temperature": 0}') is None
    assert lora("{not even JSON") is None  # that is found, and answered, when the request is parsed
    with pytest.raises(errors.InvalidRequestError):
        lora('{"lora_name": ')


@pytest.mark.parametrize("tensor", ["text_input", "embedding_request"])
def test_the_task(tensor: str) -> None:
    expected = "embed" if tensor == "embedding_request" else "generate"
    assert requests.task_of(Inputs(FakeRequest(**{tensor: "x"}))) == expected


def test_embedding_requests() -> None:
    assert embed({"input": "x"}).prompt == "x"
    assert embed({"input": [1, 2]}).prompt == [1, 2]
    assert embed({"input": "x", "pooling_params": {"dimensions": [8]}}).dimensions == 8
    assert embed({"input": "x", "pooling_params": {"dimensions": 8}}).dimensions == 8
    assert embed({"input": "x"}, return_num_input_tokens=True).additional_outputs == {"num_input_tokens"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "embedding_request: expected a JSON object, got text that is not JSON"),
        ({}, "embedding_request.input: expected a string, or a list of token ids, got None"),
        ({"input": "x", "pooling_params": {"dimensions": [0]}}, "expected a positive integer, got [0]"),
    ],
)
def test_wrong_embedding_requests(body: Any, message: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        embed(body)
    assert message in str(caught.value)


class FakeConfig:
    """What Triton hands to auto_complete_config."""

    def __init__(self, **tensors: list[dict[str, Any]]) -> None:
        self.config: dict[str, Any] = {"input": [], "output": [], **tensors}

    def as_dict(self) -> dict[str, Any]:
        return self.config

    def add_input(self, tensor: dict[str, Any]) -> None:
        self.config["input"].append(tensor)

    def add_output(self, tensor: dict[str, Any]) -> None:
        self.config["output"].append(tensor)


def test_missing_tensors_are_added() -> None:
    config = FakeConfig()
    add_missing_tensors(config)
    assert config.config == {"input": list(INPUTS), "output": list(OUTPUTS)}


@pytest.mark.parametrize("declared", [{}, {"model_transaction_policy": {"decoupled": True}}, {"max_batch_size": 0}])
def test_policies_that_are_possible(declared: dict[str, Any]) -> None:
    check_policies(declared)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"model_transaction_policy": {"decoupled": False}},
            "model_transaction_policy.decoupled: expected true or no value, got false",
        ),
        ({"max_batch_size": 8}, "max_batch_size: expected 0 (vLLM batches by itself), got 8"),
    ],
)
def test_policies_that_are_not(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        check_policies(declared)
    assert message in str(caught.value)


def test_declared_tensors_stay_as_they_are() -> None:
    mine = {"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}
    extra = {"name": "extra", "data_type": "TYPE_INT32", "dims": [1]}
    config = FakeConfig(input=[extra], output=[mine])
    add_missing_tensors(config)
    assert config.config["output"][0] is mine
    assert [tensor["name"] for tensor in config.config["output"]].count("text_output") == 1
    assert len(config.config["input"]) == len(INPUTS) + 1
