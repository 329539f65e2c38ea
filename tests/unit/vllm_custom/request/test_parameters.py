"""Request parameters: merged, told apart, typed."""

import json
import re
from typing import Any

import pytest

from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request.parameters import parse_parameters

SAMPLING = ("temperature", "max_tokens", "stop")


def parse(own: Any = None, tensor: Any = None) -> tuple[dict[str, Any], RequestParameters]:
    return parse_parameters(
        "" if own is None else json.dumps(own), None if tensor is None else json.dumps(tensor), SAMPLING
    )


def test_nothing_sent_gives_the_defaults() -> None:
    assert parse() == ({}, RequestParameters())
    assert parse({}, {}) == ({}, RequestParameters())


def test_vllms_and_ours_are_told_apart() -> None:
    sampling, control = parse({"temperature": "0.5", "lora_name": "zh", "priority": "3"})
    assert sampling == {"temperature": "0.5"}
    assert (control.lora_name, control.priority) == ("zh", 3)


@pytest.mark.parametrize(
    "name", ["id", "sequence_id", "sequence_start", "sequence_end", "binary_data_output", "triton_enable_empty_final"]
)
def test_tritons_own_parameters_are_ignored(name: str) -> None:
    assert parse({name: 1}) == ({}, RequestParameters())


@pytest.mark.parametrize(
    "name",
    ["X-Request-Id", "Content-Type", "user-agent", "Host", "accept", "Authorization", "COOKIE", "B3", "Priority"],
)
def test_headers_that_triton_forwards_are_no_parameters(name: str) -> None:
    """--http-header-forward-pattern=.* puts all of them among the parameters."""
    assert parse({name: "x", "temperature": 0}) == ({"temperature": 0}, RequestParameters())
    with pytest.raises(InvalidRequestError, match="unknown parameter"):
        parse({}, {name: "x"})


@pytest.mark.parametrize(("name", "hint"), [("max-tokens", "max_tokens"), ("lora-name", "lora_name")])
def test_a_parameter_with_hyphens_is_no_header(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"unknown parameter '{name}'; did you mean {hint}"):
        parse({name: "1"})


def test_tritons_names_mean_nothing_in_the_tensor() -> None:
    with pytest.raises(InvalidRequestError, match="unknown parameter 'id'"):
        parse({}, {"id": "7"})


@pytest.mark.parametrize(("own", "tensor"), [({"lora_name": "a"}, {"lora_name": "b"}), ({}, {"lora_name": "b"})])
def test_the_tensor_wins(own: Any, tensor: Any) -> None:
    assert parse(own, tensor)[1].lora_name == "b"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("temprature", "; did you mean temperature?"),
        ("max_new_tokens", "; did you mean max_tokens?"),
        ("lora", "; did you mean lora_name?"),
        ("zzz", " (known: add_generation_prompt, "),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        parse({name: 1})
    assert str(error.value).startswith(f"unknown parameter {name!r}{hint}")


@pytest.mark.parametrize(
    ("name", "sent", "value"),
    [
        ("structured_outputs", {"regex": "a+"}, {"regex": "a+"}),
        ("structured_outputs", '{"choice": ["a", "b"]}', {"choice": ["a", "b"]}),
        ("structured_outputs", None, None),
        ("chat_template_kwargs", '{"enable_thinking": false}', {"enable_thinking": False}),
        ("mm_processor_kwargs", '{"max_pixels": 1000}', {"max_pixels": 1000}),
        ("apply_chat_template", "true", True),
        ("apply_chat_template", False, False),
        ("add_generation_prompt", "false", False),
        ("priority", -1, -1),
    ],
)
def test_values_are_typed_and_objects_may_be_json_strings(name: str, sent: Any, value: Any) -> None:
    assert getattr(parse({name: sent})[1], name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_name", 5),
        ("structured_outputs", "{"),
        ("structured_outputs", "[1]"),
        ("structured_outputs", "[" * 100_000),
        ("chat_template_kwargs", None),
        ("mm_processor_kwargs", 3),
        ("apply_chat_template", "maybe"),
        ("priority", 1.5),
        ("priority", "first"),
        ("priority", 2**63),
        ("timeout", -1),
        ("timeout", "soon"),
        ("timeout", 2**63),
        ("guided_json", "{"),
        ("guided_json", 5),
        ("guided_regex", 5),
        ("guided_choice", "left"),
        ("guided_choice", [1]),
        ("guided_json_object", "perhaps"),
        ("response_format", "json"),
    ],
)
def test_a_wrong_type_is_named_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as error:
        parse({name: value})
    assert re.match(f"{name}: expected a (valid|JSON) value ", str(error.value))
    assert repr(value)[:20] in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "1", "1" * 5000, "[" * 100_000])
def test_what_is_not_a_json_object_is_refused(text: str) -> None:
    for name, sent in (("parameters", (text, None)), ("sampling_parameters", ("", text))):
        with pytest.raises(InvalidRequestError, match=f"^{name}: expected a JSON object"):
            parse_parameters(*sent, SAMPLING)


@pytest.mark.parametrize(
    ("sent", "headers"),
    [
        ({}, None),
        ({"traceparent": "00-1-2-01"}, {"traceparent": "00-1-2-01"}),
        ({"Traceparent": "00-1-2-01", "TRACESTATE": "a=b"}, {"traceparent": "00-1-2-01", "tracestate": "a=b"}),
        ({"traceparent": 5, "tracestate": ""}, None),
        ({"traceparent": "00-1-2-01", "tracestate": "a" * 513}, {"traceparent": "00-1-2-01"}),
        ({"traceparent": "00-1-2-01\n", "tracestate": "a\u00e4"}, None),
    ],
)
def test_trace_context_is_taken_in_any_spelling_and_never_refused(sent: Any, headers: Any) -> None:
    assert parse(sent)[1].trace_headers == headers


@pytest.mark.parametrize(("sent", "timeout"), [({}, 0), ({"timeout": 5}, 5), ({"timeout": "1000000"}, 1_000_000)])
def test_a_timeout_is_a_number_of_microseconds(sent: Any, timeout: int) -> None:
    assert parse(sent)[1].timeout == timeout


def test_typed_tensors_win_over_both() -> None:
    sampling, control = parse_parameters(
        '{"max_tokens": 1, "temperature": 1}', '{"max_tokens": 2}', SAMPLING, {"max_tokens": 3, "priority": 7}
    )
    assert (sampling, control.priority) == ({"max_tokens": 3, "temperature": 1}, 7)
