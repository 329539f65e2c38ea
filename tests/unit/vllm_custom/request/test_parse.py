"""Tensors and parameters of a request become a checked call."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fakes
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request import InferenceCall, parse_request, read_tensors, split_batch

SAMPLING = ("temperature", "max_tokens", "stop")
MESSAGES = '[{"role": "user", "content": "hi"}]'


def text(*values: str | bytes) -> Any:
    return np.array([value.encode() if isinstance(value, str) else value for value in values], dtype=np.object_)


def flag(*values: bool) -> Any:
    return np.array(values, dtype=np.bool_)


def parse(parameters: str = "{}", **tensors: Any) -> InferenceCall:
    return parse_request(tensors, parameters, SAMPLING)


def test_only_tensors_that_are_there_are_read() -> None:
    request = SimpleNamespace(text_input=fakes.Tensor("text_input", text("hi")), stream=None)
    tensors = read_tensors(request, lambda request, name: getattr(request, name), ("text_input", "stream"))
    assert list(tensors) == ["text_input"]
    assert tensors["text_input"].tolist() == [b"hi"]


def test_a_bare_prompt_has_the_defaults() -> None:
    call = parse(text_input=text("你好"))
    assert call.text == "你好"
    assert call.messages is None
    assert (call.stream, call.exclude_input, call.templated) == (False, None, None)
    assert (dict(call.sampling), dict(call.media), call.additional_outputs) == ({}, {}, frozenset())


def test_messages_are_parsed_and_always_templated() -> None:
    call = parse(messages=text(MESSAGES))
    assert call.text is None
    assert call.messages == [{"role": "user", "content": "hi"}]
    assert call.templated is True


def test_media_keep_their_order_and_empty_inputs_do_not_count() -> None:
    call = parse(text_input=text("x"), audio=text("c"), image=text(b"\xff\xd8", "b"), video=text())
    assert dict(call.media) == {"image": (b"\xff\xd8", b"b"), "audio": (b"c",)}


def test_shape_does_not_matter_where_the_count_is_right() -> None:
    call = parse(
        text_input=text("x").reshape(1, 1), stream=flag(True).reshape(1, 1), image=text("a", "b").reshape(1, 2)
    )
    assert (call.text, call.stream, dict(call.media)) == ("x", True, {"image": (b"a", b"b")})


def test_text_elements_may_be_strings() -> None:
    """numpy arrays of the stub hold bytes; those of other tensors' types may hold str."""
    call = parse(text_input=np.array(["你"], dtype=np.object_), image=np.array(["aé"], dtype=np.object_))
    assert (call.text, call.media["image"]) == ("你", ("aé".encode(),))


def test_additional_outputs_are_those_asked_for() -> None:
    call = parse(text_input=text("x"), return_logprobs=flag(True), return_finish_reason=flag(False))
    assert call.additional_outputs == {"logprobs"}


@pytest.mark.parametrize(("sent", "expected"), [(True, True), (False, False)])
def test_the_choice_to_exclude_the_prompt_is_kept(sent: bool, expected: bool) -> None:
    assert parse(text_input=text("x"), exclude_input_in_output=flag(sent)).exclude_input is expected


def test_a_stream_may_exclude_the_prompt() -> None:
    assert parse(text_input=text("x"), stream=flag(True), exclude_input_in_output=flag(True)).stream


def test_sampling_parameters_win_over_the_requests_own() -> None:
    call = parse(
        '{"temperature": 1, "max_tokens": 5}', text_input=text("x"), sampling_parameters=text('{"temperature": 0}')
    )
    assert call.sampling == {"temperature": 0, "max_tokens": 5}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "exactly one of the inputs text_input, messages, input_ids, prompt_embeds, and queries with documents"),
        (
            {"text_input": text("x"), "messages": text(MESSAGES)},
            "exactly one of the inputs text_input, messages, input_ids, ",
        ),
        ({"text_input": text()}, "text_input: expected exactly 1 element, got 0 elements"),
        ({"text_input": text("a", "b")}, "text_input: expected exactly 1 element, got 2 elements"),
        ({"text_input": text(b"ab\xff")}, "text_input: expected UTF-8 text (byte 2 is not), got b'ab\\xff'"),
        ({"text_input": text("x"), "stream": flag()}, "stream: expected exactly 1 element"),
        ({"text_input": text("x"), "return_logprobs": flag(True, True)}, "return_logprobs: expected exactly 1"),
        ({"text_input": text("x"), "sampling_parameters": text("{")}, "sampling_parameters: expected a JSON object"),
        ({"text_input": text("x"), "sampling_parameters": text("")}, "sampling_parameters: expected a JSON object"),
        ({"text_input": text("x"), "sampling_parameters": text("[]")}, "sampling_parameters: expected a JSON object"),
        (
            {"messages": text("hello")},
            "messages: expected a JSON list of chat messages (JSON is malformed: invalid character (byte 0)",
        ),
        ({"messages": text(b'["\xff"]')}, "messages: expected a JSON list of chat messages (not UTF-8)"),
        ({"messages": text('{"role": "user"}')}, "messages: expected a non-empty JSON list of objects, got {"),
        ({"messages": text("[]")}, "messages: expected a non-empty JSON list of objects, got []"),
        ({"messages": text('["hi"]')}, "messages: expected a non-empty JSON list of objects, got ['hi']"),
        ({"messages": text("[" * 100_000)}, "messages: expected a JSON list of chat messages (nested too deep)"),
        (
            {"messages": text("1" * 5000)},
            "messages: expected a JSON list of chat messages (Integer value out of range)",
        ),
        (
            {"text_input": text("x"), "stream": flag(True), "exclude_input_in_output": flag(False)},
            "Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed.",
        ),
        ({"messages": text(MESSAGES), "image": text("a")}, "image: cannot be combined with messages; use their parts"),
        (
            {"messages": text(MESSAGES), "image": text("a"), "video": text("b")},
            "image/video: cannot be combined with messages",
        ),
        (
            {"messages": text(MESSAGES), "sampling_parameters": text('{"apply_chat_template": false}')},
            "apply_chat_template: false cannot be combined with messages",
        ),
    ],
)
def test_a_bad_request_is_refused_by_name(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        parse(**tensors)
    assert message in str(error.value)
    assert len(str(error.value)) < 500


def test_a_batch_is_split_by_row() -> None:
    rows = split_batch({"text_input": text("a", "b").reshape(2, 1), "image": text("1", "2", "3", "4").reshape(2, 2)})
    assert [{name: array.tolist() for name, array in row.items()} for row in rows] == [
        {"text_input": [b"a"], "image": [b"1", b"2"]},
        {"text_input": [b"b"], "image": [b"3", b"4"]},
    ]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"text_input": text("a", "b").reshape(2, 1), "stream": flag(True).reshape(1, 1)}, "different batch sizes"),
        ({"text_input": text().reshape(0, 1)}, "a batch size of 0"),
    ],
)
def test_a_batch_without_common_rows_is_refused(tensors: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        split_batch(tensors)


def test_a_tensor_without_the_shape_of_a_row_is_refused() -> None:
    """Triton 24.10 lets a shape of 2^40 rows through; the answer was an internal error."""
    with pytest.raises(
        InvalidRequestError, match=r"text_input: expected a batch size and a shape, got the shape \[1\]"
    ):
        split_batch({"text_input": text("a")})


@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda value: value.encode("utf-8", "replace"))))
def test_any_bytes_as_messages_or_parameters_give_a_call_or_our_error(content: bytes) -> None:
    for tensors in ({"messages": text(content)}, {"text_input": text("x"), "sampling_parameters": text(content)}):
        _, error = fakes.outcome(lambda tensors=tensors: parse(**tensors))
        assert error is None or error.triton_code == "INVALID_ARG"


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["temperature", "lora_name", "priority", "structured_outputs", "chat_template_kwargs", "id", "nonsense"]
        ),
        _JSON,
        max_size=4,
    )
)
def test_any_parameters_give_a_call_or_our_error(parameters: dict[str, Any]) -> None:
    _, error = fakes.outcome(lambda: parse(json.dumps(parameters), text_input=text("x")))
    assert error is None or any(name in str(error) for name in parameters)
