"""Parameters that come as typed tensors."""

from typing import Annotated, Any

import numpy as np
import pytest

from vllm_custom.engine.vllm import sampling
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request import ParameterTensors
from vllm_custom.request.parameter_tensors import takes_list

FIELDS = {"max_tokens": int | None, "temperature": float, "stop": str | list[str] | None, "stop_token_ids": list[int]}


def values(**tensors: Any) -> dict[str, Any]:
    return ParameterTensors([*tensors, "tenant"], FIELDS).values(tensors)


def text(*elements: bytes) -> Any:
    return np.array(elements, dtype=np.object_)


def test_declared_inputs_that_are_no_parameters_are_left_alone() -> None:
    made = ParameterTensors(["tenant", "max_tokens", "lora_name"], FIELDS)
    assert sorted(made.names) == ["lora_name", "max_tokens"]
    assert made.values({"text_input": text(b"x")}) == {}


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("max_tokens", np.array([5], dtype=np.int32), 5),
        ("max_tokens", np.array([[5]], dtype=np.int64), 5),
        ("max_tokens", np.array([5], dtype=np.uint8), 5),
        ("temperature", np.array([0.7], dtype=np.float32), 0.7),
        ("temperature", np.array([0.1], dtype=np.float16), 0.1),
        ("temperature", np.array([0.7], dtype=np.float64), 0.7),
        ("stop", text(b"a", "图".encode()), ["a", "图"]),
        ("stop", text(b"a"), ["a"]),
        ("stop", text(), []),
        ("stop_token_ids", np.array([1, 2], dtype=np.int32), [1, 2]),
        ("lora_name", text(b"zh"), "zh"),
        ("guided_choice", text(b"a", b"b"), ["a", "b"]),
        ("apply_chat_template", np.array([True]), True),
    ],
)
def test_values_are_plain(name: str, array: Any, expected: Any) -> None:
    (value,) = values(**{name: array}).values()
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("max_tokens", np.array([], dtype=np.int32), "max_tokens: expected exactly 1 element in the input .* got 0"),
        ("max_tokens", np.array([1, 2], dtype=np.int32), "max_tokens: expected exactly 1 element .* got 2 elements"),
        ("lora_name", text(b"a", b"b"), "lora_name: expected exactly 1 element"),
        ("stop", text(b"\xff"), r"stop: expected UTF-8 text \(byte 0 is not\)"),
    ],
)
def test_wrong_tensors_are_explained(name: str, array: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        values(**{name: array})


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (list, True),
        (list[int], True),
        (list[int] | None, True),
        (str | list[str] | None, True),
        (Annotated[list[str], "x"] | None, True),
        (Annotated[int | None, "x"], False),
        (dict[int, float] | None, False),
        (int, False),
    ],
)
def test_list_fields_are_told_by_their_type(annotation: Any, expected: bool) -> None:
    assert takes_list(annotation) is expected


def test_list_fields_of_the_installed_vllm(vllm: None) -> None:
    lists = {name for name, annotation in sampling.sampling_fields().items() if takes_list(annotation)}
    assert {"stop", "stop_token_ids", "bad_words", "allowed_token_ids"} <= lists
    assert not {"max_tokens", "temperature", "seed", "ignore_eos", "logit_bias", "top_k"} & lists
