"""What is new in a response, and how responses become one."""

import copy
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fakes
from tests.support.fakes import CompletionOutput, Logprob, RequestOutput
from vllm_custom.contract.tensors import ADDITIONAL_OUTPUTS, OUTPUTS
from vllm_custom.errors import InternalError
from vllm_custom.responses import ResponseDelta, check_finite, needs_logprobs
from vllm_custom.responses.delta import SequenceDelta
from vllm_custom.triton.responses import ResponseBuilder

ALL = frozenset(ADDITIONAL_OUTPUTS)


def delta(*completions: CompletionOutput, n: int = 1) -> ResponseDelta:
    return ResponseDelta.from_output(RequestOutput(list(completions)), n)


def test_every_output_of_one_sequence() -> None:
    arrays = delta(
        CompletionOutput(
            text="你好",
            token_ids=(5, 6),
            logprobs=[{5: Logprob(-0.5, 1, "你")}, {6: Logprob(-1.5, 2, "好"), 7: Logprob(-0.1, 1, "x")}],
            cumulative_logprob=-2.0,
            finish_reason="stop",
        )
    ).arrays(ALL)
    assert arrays["text_output"].tolist() == ["你好".encode()]
    assert arrays["finish_reason"].tolist() == [b"stop"]
    assert (arrays["cumulative_logprob"].tolist(), arrays["cumulative_logprob"].dtype) == ([-2.0], np.float32)
    assert (arrays["num_input_tokens"].tolist(), arrays["num_input_tokens"].dtype) == ([3], np.uint32)
    assert (arrays["num_output_tokens"].tolist(), arrays["num_output_tokens"].dtype) == ([2], np.uint32)
    assert json.loads(arrays["logprobs"][0]) == [
        {"5": {"logprob": -0.5, "rank": 1, "decoded_token": "你"}},
        {
            "6": {"logprob": -1.5, "rank": 2, "decoded_token": "好"},
            "7": {"logprob": -0.1, "rank": 1, "decoded_token": "x"},
        },
    ]


def test_every_output_has_the_type_that_is_declared() -> None:
    """What has no array of its own in `_array` becomes text."""
    types = {"TYPE_STRING": np.object_, "TYPE_FP32": np.float32, "TYPE_INT32": np.int32, "TYPE_UINT32": np.uint32}
    arrays = delta(CompletionOutput(text="x", token_ids=(5,))).arrays(ALL)
    declared = {row.name: (np.dtype(types[row.data_type]), len(row.dims)) for row in OUTPUTS if row.name in arrays}
    assert {name: (array.dtype, array.ndim) for name, array in arrays.items()} == declared


def test_what_a_request_took_comes_with_its_last_response() -> None:
    running, last = RequestOutput([CompletionOutput()]), RequestOutput([CompletionOutput()], finished=True)
    last.num_cached_tokens = 8  # type: ignore[attr-defined]
    pieces = [ResponseDelta.from_output(output, 1, figures=True) for output in (running, last)]
    assert [piece.arrays(ALL)["request_metrics"].tolist() for piece in pieces] == [[b"null"], [b'{"cached_tokens": 8}']]
    pieces[0].add(pieces[1])
    assert pieces[0].arrays(ALL)["request_metrics"].tolist() == [b'{"cached_tokens": 8}']


def test_absent_values_have_their_words() -> None:
    arrays = delta(CompletionOutput(text="x")).arrays(ALL)
    assert arrays["finish_reason"].tolist() == [b"None"]
    assert arrays["logprobs"].tolist() == [b"null"]
    assert arrays["cumulative_logprob"].tolist() == [0.0]


NOT_IN_JSON = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", NOT_IN_JSON)
def test_impossible_tokens_have_a_logprob_that_json_can_hold(value: float) -> None:
    """NaN as a bare word in the JSON of an answer is refused by browsers, Go and Java."""
    arrays = delta(CompletionOutput(logprobs=[{5: Logprob(value)}], cumulative_logprob=value)).arrays(ALL)
    assert json.loads(arrays["logprobs"][0], parse_constant=pytest.fail)[0]["5"]["logprob"] == -9999.0
    assert arrays["cumulative_logprob"].tolist() == [-9999.0]


def test_a_long_sequence_may_be_less_likely_than_the_lowest_token() -> None:
    assert delta(CompletionOutput(cumulative_logprob=-20000.5)).arrays(ALL)["cumulative_logprob"].tolist() == [-20000.5]


@pytest.mark.parametrize(
    ("sampling", "asked", "expected"),
    [
        ({}, {"cumulative_logprob"}, True),
        ({"logprobs": None}, {"cumulative_logprob", "logprobs"}, True),
        ({"logprobs": 0}, {"cumulative_logprob"}, False),
        ({"logprob_token_ids": [1]}, {"cumulative_logprob"}, False),
        ({}, {"logprobs"}, False),
    ],
)
def test_a_sum_of_logprobs_needs_them(sampling: dict[str, Any], asked: set[str], expected: bool) -> None:
    """vLLM has no cumulative_logprob where nobody asked for logprobs."""
    assert needs_logprobs(sampling, frozenset(asked)) is expected


def test_logprobs_that_were_only_added_up_are_not_told() -> None:
    output = RequestOutput([CompletionOutput(logprobs=[{5: Logprob(-0.5)}], cumulative_logprob=-0.5)])
    arrays = ResponseDelta.from_output(output, 1, logprobs=False).arrays(ALL)
    assert (arrays["logprobs"].tolist(), arrays["cumulative_logprob"].tolist()) == ([b"null"], [-0.5])


@pytest.mark.parametrize("value", NOT_IN_JSON)
def test_embeddings_and_scores_are_numbers(value: float) -> None:
    check_finite("embedding", np.zeros((2, 3), np.float32))
    check_finite("scores", [])
    with pytest.raises(InternalError, match="scores: the model returned NaN or infinity"):
        check_finite("scores", [0.5, value])


def test_text_that_utf_8_cannot_hold_is_still_answered() -> None:
    assert delta(CompletionOutput(text="a\ud800b")).arrays(ALL)["text_output"].tolist() == [b"a?b"]


@pytest.mark.parametrize(
    ("reason", "told"), [("END", b"END"), (5, b"5"), (None, b"None")], ids=["string", "token", "none"]
)
def test_what_stopped_a_sequence_is_told(reason: Any, told: bytes) -> None:
    made = delta(CompletionOutput(stop_reason=reason))
    made.add(delta(CompletionOutput()))
    assert made.arrays(ALL)["stop_reason"].tolist() == [told]


def test_logprobs_of_the_prompt_are_one_json_text_and_none_for_its_first_token() -> None:
    (text,) = delta(CompletionOutput()).arrays(ALL)["prompt_logprobs"]
    assert json.loads(text) is None
    output = RequestOutput([CompletionOutput()], prompt_logprobs=[None, {5: Logprob(-math.inf, 9, "x")}])
    (text,) = ResponseDelta.from_output(output, 2).arrays(ALL)["prompt_logprobs"]
    assert json.loads(text) == [None, {"5": {"logprob": -9999.0, "rank": 9, "decoded_token": "x"}}]


def test_logprobs_are_written_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 4,000 tokens at once held the interpreter for 200 ms."""
    written: list[Any] = []

    def dumps(value: Any, real: Any = json.dumps) -> str:
        written.append(value)
        return str(real(value))

    monkeypatch.setattr(json, "dumps", dumps)
    output = RequestOutput([CompletionOutput(logprobs=[{5: Logprob(-1.0)}] * 3)])
    output.prompt_logprobs = [None, {6: Logprob(-2.0)}]
    found = ResponseDelta.from_output(output, 1).arrays(frozenset({"logprobs", "prompt_logprobs"}))
    assert all(value is None or isinstance(value, dict) for value in written)
    assert [len(json.loads(found[name][0])) for name in ("logprobs", "prompt_logprobs")] == [3, 2]


def test_logprobs_of_the_prompt_survive_merging() -> None:
    """vLLM sends them with the first piece of a stream, and an empty list with the others."""
    first = ResponseDelta.from_output(RequestOutput([CompletionOutput()], prompt_logprobs=[None]), 1)
    later = ResponseDelta.from_output(RequestOutput([CompletionOutput()], prompt_logprobs=[]), 1)
    assert later.arrays(ALL)["prompt_logprobs"].tolist() == [b"null"]
    for one, other in ((first, later), (later, first)):
        one.add(other)
        assert one.arrays(ALL)["prompt_logprobs"].tolist() == [b"[null]"]


@pytest.mark.parametrize("asked", [frozenset(), frozenset({"logprobs"}), ALL])
def test_only_what_was_asked_for_is_built(asked: frozenset[str]) -> None:
    assert set(delta(CompletionOutput()).arrays(asked)) == {"text_output"} | asked


def test_an_output_may_hold_some_of_the_sequences() -> None:
    arrays = delta(CompletionOutput(index=2, text="c", token_ids=(1,)), n=3).arrays(ALL)
    assert arrays["text_output"].tolist() == [b"", b"", b"c"]
    assert arrays["num_output_tokens"].tolist() == [0, 0, 1]
    assert arrays["num_input_tokens"].tolist() == [3]


def test_a_prompt_of_embeddings_counts_no_tokens() -> None:
    made = ResponseDelta.from_output(RequestOutput([CompletionOutput()], prompt_token_ids=None), 1)
    assert made.arrays(ALL)["num_input_tokens"].tolist() == [0]


def test_the_prompt_comes_before_each_sequence() -> None:
    made = delta(CompletionOutput(text="a"), CompletionOutput(index=1, text="b"), n=2)
    made.prepend("P:")
    assert made.arrays(frozenset())["text_output"].tolist() == [b"P:a", b"P:b"]


@st.composite
def outputs(draw: st.DrawFn) -> list[RequestOutput]:
    """The steps of a request with two sequences, which end at any step, as vLLM reports them."""
    steps = []
    total = {0: 0.0, 1: 0.0}
    for _ in range(draw(st.integers(1, 8))):
        completions = []
        for index in draw(st.sets(st.sampled_from([0, 1]), min_size=1)):
            tokens = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
            total[index] -= len(tokens)
            completions.append(
                CompletionOutput(
                    index=index,
                    text="".join(map(str, tokens)),
                    token_ids=tuple(tokens),
                    logprobs=[{token: Logprob(-1.0)} for token in tokens],
                    cumulative_logprob=total[index],
                    finish_reason=draw(st.sampled_from([None, "stop"])),
                )
            )
        steps.append(RequestOutput(completions))
    return steps


def merge(deltas: list[ResponseDelta]) -> ResponseDelta:
    first, *rest = copy.deepcopy(deltas)
    for later in rest:
        first.add(later)
    return first


@given(outputs(), st.data())
def test_any_way_to_merge_gives_the_same_sum(steps: list[RequestOutput], data: st.DataObject) -> None:
    deltas = [ResponseDelta.from_output(step, 2) for step in steps]
    whole = merge(deltas)
    cut = data.draw(st.integers(0, len(deltas) - 1))
    parts = [merge(part) for part in (deltas[:cut], deltas[cut:]) if part]
    assert merge(parts) == whole
    for index in (0, 1):
        mine = [completion for step in steps for completion in step.outputs if completion.index == index]
        sequence = whole.sequences[index]
        assert sequence.text == "".join(completion.text for completion in mine)
        assert sequence.num_tokens == sum(len(completion.token_ids) for completion in mine)
        assert len(sequence.logprobs or []) == sequence.num_tokens
        assert sequence.cumulative_logprob == (mine[-1].cumulative_logprob if mine else None)
        assert sequence.finish_reason == ("stop" if any(completion.finish_reason for completion in mine) else None)
    assert whole.num_input_tokens == 3


def test_nothing_is_lost_when_two_become_one() -> None:
    """A field that is missing in `add` is missing only where a client reads slowly."""
    piece = {
        "text": "a",
        "num_tokens": 1,
        "token_ids": [5],
        "reasoning": "b",
        "tool_calls": [{"index": 0}],
        "logprobs": [{"5": {}}],
        "cumulative_logprob": -1.0,
        "finish_reason": "stop",
        "stop_reason": 5,
    }
    assert piece.keys() == {field.name for field in dataclasses.fields(SequenceDelta)}
    made = SequenceDelta()
    made.add(SequenceDelta(**copy.deepcopy(piece)))
    assert dataclasses.asdict(made) == piece


def test_responses_hold_the_declared_outputs_only() -> None:
    builder = ResponseBuilder(fakes.pb_utils, frozenset({"text_output", "finish_reason"}), batched=False)
    response = builder.outputs([delta(CompletionOutput(text="a")).arrays(ALL)])
    assert [tensor.name() for tensor in response.output_tensors()] == ["text_output", "finish_reason"]
    assert response.output_tensors()[0].as_numpy().shape == (1,)


def test_batched_responses_have_a_row_per_prompt() -> None:
    builder = ResponseBuilder(fakes.pb_utils, frozenset({"text_output"}), batched=True)
    rows = [delta(CompletionOutput(text=text)).arrays(frozenset()) for text in ("a", "b")]
    (tensor,) = builder.outputs(rows).output_tensors()
    assert tensor.as_numpy().tolist() == [[b"a"], [b"b"]]
