"""Parameters text to SamplingParams, with the installed vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vllm_backend_lib import sampling
from vllm_backend_lib.kernel import errors

pytestmark = pytest.mark.usefixtures("vllm")


def build(stream: bool = False, **parameters: Any) -> Any:
    return sampling.build_sampling_params(parameters, stream=stream)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("temperature", "0.5", 0.5),
        ("temperature", 1, 1.0),
        ("max_tokens", "7", 7),
        ("max_tokens", 7.0, 7),
        ("max_tokens", None, None),
        ("ignore_eos", "false", False),
        ("ignore_eos", "True", True),
        ("seed", "42", 42),
        ("stop", "end", ["end"]),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("stop", "[", ["["]),
        ("stop", "[1, 2]", ["[1, 2]"]),
        ("stop", ["a"], ["a"]),
        ("stop_token_ids", "[1, 2]", [1, 2]),
        ("logit_bias", '{"5": 1}', {5: 1.0}),
        ("bad_words", '["x"]', ["x"]),
    ],
)
def test_values_become_the_fields_types(name: str, given: Any, expected: Any) -> None:
    assert getattr(build(**{name: given}), name) == expected


def test_defaults_are_vllms() -> None:
    params = build()
    assert (params.max_tokens, params.temperature, params.n) == (16, 1.0, 1)


def test_streams_get_deltas_and_others_one_final_output() -> None:
    assert build(stream=True).output_kind.name == "DELTA"
    assert build(stream=False).output_kind.name == "FINAL_ONLY"


def test_the_id_that_triton_adds_is_ignored() -> None:
    assert build(id="42").max_tokens == 16


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"max_tokens": 1.5}, "max_tokens: expected an integer or null, got 1.5"),
        ({"stop": [1]}, "stop: expected a string or a list (each element a string) or null, got [1]"),
        (
            {"logit_bias": {"x": 1}},
            "logit_bias: expected an object (each key an integer, each value a number) or null, got {'x': 1}",
        ),
        ({"temperature": float("inf")}, "temperature: expected a finite number, got inf"),
        ({"temperature": -1}, "temperature must be non-negative"),
        ({"max_token": 1}, "unknown parameter 'max_token'; did you mean max_tokens? (known: "),
        ({"guided_choice": "x"}, "unknown parameter 'guided_choice'"),
        ({"_eos_token_id": 1}, "unknown parameter '_eos_token_id'"),
        ({"output_kind": 1}, "unknown parameter 'output_kind'"),
        ({"skip_clone": True}, "unknown parameter 'skip_clone'"),
        ({"structured_outputs": "red"}, "structured_outputs: expected a JSON object, got text that is not JSON"),
        ({"structured_outputs": 5}, "structured_outputs: expected a JSON object, or a string that holds one, got 5"),
        ({"structured_outputs": {"choice": "red"}}, "structured_outputs.choice: expected a valid list, got 'red'"),
        ({"structured_outputs": {"regx": "a"}}, "got 'regx'; did you mean regex?"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs: You can only use one kind"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        build(**parameters)
    assert message in str(caught.value)


@pytest.mark.parametrize("wrap", [json.dumps, lambda value: value], ids=["as a string", "as an object"])
def test_structured_outputs(wrap: Any) -> None:
    params = build(structured_outputs=wrap({"choice": ["red", "blue"], "disable_any_whitespace": True}))
    assert params.structured_outputs.choice == ["red", "blue"]
    assert params.structured_outputs.disable_any_whitespace is True


def test_a_schema_may_be_an_object_or_text() -> None:
    schema = {"type": "object"}
    assert build(structured_outputs={"json": schema}).structured_outputs.json == schema
    assert build(structured_outputs={"json": json.dumps(schema)}).structured_outputs.json in (
        schema,
        json.dumps(schema),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a"', "text that is not JSON (Expecting ':' delimiter at line 1, column 5)"),
        ("[1]", "[1]"),
        ('{"temperature": NaN}', "text that is not JSON (NaN is not a JSON number)"),
        ("[" * 100_000, "text that is not JSON (nested too deeply)"),
    ],
)
def test_text_that_is_no_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        sampling.parse_parameters(text, "parameters")
    assert str(caught.value) == f"parameters: expected a JSON object, got {message}"


def test_no_text_means_no_parameters() -> None:
    assert sampling.parse_parameters("  ", "parameters") == {}


def test_the_adapter_is_taken_out() -> None:
    parameters = {"lora_name": "zh", "n": 1}
    assert sampling.take_lora_name(parameters) == "zh"
    assert parameters == {"n": 1}
    with pytest.raises(
        errors.InvalidRequestError, match=r"lora_name: expected the name of a LoRA adapter \(a string\), got 5"
    ):
        sampling.take_lora_name({"lora_name": 5})
