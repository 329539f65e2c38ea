"""Rows of a batch that cannot be answered by one response are refused, with the row and what differs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support import fakes
from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request import InferenceCall, TextPairs, check_batch
from vllm_custom.triton.responses import ResponseBuilder

CALL = InferenceCall(
    text="a",
    messages=None,
    stream=False,
    exclude_input=None,
    additional_outputs=frozenset({"finish_reason"}),
    sampling={},
    control=RequestParameters(),
)


def pairs(count: int) -> TextPairs:
    return TextPairs(queries=("q",), documents=("d",) * count)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"additional_outputs": frozenset()},
            "return_finish_reason: expected the same value in all rows of a batch, got false in row 2 and true in",
        ),
        (
            {"additional_outputs": frozenset({"finish_reason", "logprobs"})},
            "return_logprobs: expected the same value in all rows of a batch, got true in row 2 and false in row 0",
        ),
        ({"sampling": {"n": "2"}}, "n: expected the same value in all rows of a batch, got 2 in row 2 and 1 in row 0"),
        ({"sampling": {"dimensions": 8}}, "dimensions: .* got 8 in row 2 and None in row 0"),
        ({"sampling": {"task": "classify"}}, "task: .* got classify in row 2 and None in row 0"),
        ({"embedding_request": True}, "embedding_request: .* got given in row 2 and not given in row 0"),
        ({"pairs": pairs(3)}, "documents: .* got 3 elements in row 2 and None in row 0"),
    ],
)
def test_a_row_that_differs_is_named(changes: dict[str, Any], message: str) -> None:
    """Row 0 decided for all rows, or the response "could not be built"."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        check_batch([CALL, CALL, replace(CALL, **changes)])
    assert caught.value.param == message.split(":")[0]


@pytest.mark.parametrize(
    "others",
    [
        [],
        [replace(CALL, text="b", sampling={"max_tokens": 3, "temperature": 0})],
        [replace(CALL, sampling={"n": 1}), replace(CALL, sampling={"n": " 1 "})],
        [replace(CALL, exclude_input=True)],
    ],
)
def test_rows_that_differ_in_nothing_else_are_served(others: list[InferenceCall]) -> None:
    check_batch([CALL, *others])


def test_what_the_client_wrote_for_a_number_is_no_defect() -> None:
    with pytest.raises(InvalidRequestError, match="n: expected the same value"):
        check_batch([CALL, replace(CALL, sampling={"n": ["x" * 10**6] * 100})])


def test_outputs_of_different_sizes_are_refused_by_name() -> None:
    builder = ResponseBuilder(fakes.pb_utils, frozenset({"embedding"}), batched=True)
    with pytest.raises(InvalidRequestError, match=r"embedding: .* got \[3, 2\] in row 1 and \[2, 2\] in row 0"):
        builder.outputs([{"embedding": np.zeros((rows, 2))} for rows in (2, 3)])
