"""What holds for a request as a whole, of all its rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.support.fake_engine import FakeEngine
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import InvalidRequestError
from vllm_custom.handlers import Incoming, Parsed, RowReader
from vllm_custom.handlers.base import shortest
from vllm_custom.request import ClientRules


def parsed(rows: int = 1, timeout_us: int = 0, **parameters: Any) -> Parsed:
    config = {"name": "model", "max_batch_size": 8}
    reader = RowReader(FakeEngine(), Settings.from_model_config(config), ClientRules())
    tensors = {"text_input": np.array([[b"hi"]] * rows, np.object_)}
    incoming = Incoming(tensors, parameters=json.dumps(parameters), timeout_us=timeout_us)
    return reader.parsed(incoming, reader.read(incoming))


@pytest.mark.parametrize(("timeouts", "expected"), [((), 0), ((0,), 0), ((0, 5), 5), ((9, 5, 0), 5), ((-1, 3), 3)])
def test_the_shortest_timeout_counts_and_zero_is_none(timeouts: tuple[int, ...], expected: int) -> None:
    assert shortest(*timeouts) == expected


@pytest.mark.parametrize(("of_triton", "sent", "expected"), [(0, 0, 0), (7, 0, 7), (0, 5, 5), (7, 5, 5), (3, 5, 3)])
def test_the_timeout_of_the_kserve_request_and_of_its_parameters(of_triton: int, sent: int, expected: int) -> None:
    assert parsed(2, of_triton, timeout=sent).timeout_us == expected


def read(tensors: dict[str, Any], **parameters: Any) -> Any:
    """The only row of a request to a model without a batch dimension."""
    reader = RowReader(FakeEngine(), Settings.from_model_config({"name": "model"}), ClientRules())
    arrays = {name: np.array(values, np.object_) for name, values in {"text_input": [b"hi"], **tensors}.items()}
    (call,) = reader.read(Incoming(arrays, parameters=json.dumps(parameters)))
    return call


def test_lists_of_words_are_inputs_as_well() -> None:
    """LiteLLM's provider triton sends both, with an empty word where there is none."""
    assert read({"stop_words": [b""], "bad_words": [b""]}).sampling == {}
    given = read({"stop_words": [b"a", b"", b"b"], "bad_words": ["c"]})
    assert given.sampling == {"stop": ["a", "b"], "bad_words": ["c"]}
    assert read({"stop_words": [b"a"]}, stop="z").sampling == {"stop": ["a"]}
    assert read({"stop_words": [b""]}, stop="z").sampling == {"stop": "z"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"stop_words": [b"a"] * 65}, r"stop_words: expected at most 64 strings \(MAX_STOP_STRINGS of this model\)"),
        ({"bad_words": [b"a"] * 129}, r"bad_words: expected at most 128 strings \(MAX_BAD_WORDS of this model\)"),
        ({"stop_words": [b"a" * 1025]}, r"stop: expected at most 1024 characters in a string"),
        ({"stop_words": [b"\xff"]}, r"stop_words: expected UTF-8 text"),
    ],
)
def test_lists_of_words_are_bounded(tensors: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(tensors)


@pytest.mark.parametrize(
    ("rows", "n", "expected"),
    [
        (1, 1, 1),
        (1, 3, 3),
        (2, 3, 6),
        (2, "3", 6),
        (3, 0, 3),
        (2, -5, 2),
        (2, "many", 2),
        (2, [3], 2),
    ],
)
def test_a_request_counts_as_n_sequences_of_each_row(rows: int, n: Any, expected: int) -> None:
    """What is no number is refused later, by name; it counts as one until then."""
    assert parsed(rows, n=n).sequences == expected
