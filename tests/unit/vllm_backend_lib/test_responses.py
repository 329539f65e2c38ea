"""Engine outputs to arrays."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from vllm_backend_lib.kernel import errors
from vllm_backend_lib.responses import TextEncoder, encode_embedding

ALL = frozenset({"finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens"})


def part(index: int, text: str, tokens: int, **fields: Any) -> SimpleNamespace:
    defaults = {"finish_reason": None, "cumulative_logprob": None, "logprobs": None}
    return SimpleNamespace(index=index, text=text, token_ids=list(range(tokens)), **{**defaults, **fields})


def output(*parts: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(outputs=list(parts), prompt_token_ids=[1, 2, 3])


def test_only_text_unless_more_is_wanted() -> None:
    arrays = TextEncoder(1, "", frozenset()).encode(output(part(0, "red", 1)))
    assert list(arrays) == ["text_output"]
    assert arrays["text_output"].tolist() == [b"red"]
    assert arrays["text_output"].dtype == np.object_


def test_the_prefix_comes_once_before_every_sequence() -> None:
    encoder = TextEncoder(2, "ask: ", frozenset())
    assert encoder.encode(output(part(0, "a", 1), part(1, "b", 1)))["text_output"].tolist() == [b"ask: a", b"ask: b"]
    assert encoder.encode(output(part(0, "c", 1)))["text_output"].tolist() == [b"c", b""]


def test_all_outputs_have_their_types() -> None:
    entry = SimpleNamespace(logprob=-0.5, rank=1, decoded_token="é")
    done = part(0, "é", 2, finish_reason="stop", cumulative_logprob=-1.5, logprobs=[{7: entry}])
    arrays = TextEncoder(1, "", ALL).encode(output(done))
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "text_output": ("object", (1,)),
        "finish_reason": ("object", (1,)),
        "cumulative_logprob": ("float32", (1,)),
        "logprobs": ("object", (1,)),
        "num_input_tokens": ("uint32", (1,)),
        "num_output_tokens": ("uint32", (1,)),
    }
    assert arrays["finish_reason"].tolist() == [b"stop"]
    assert arrays["num_input_tokens"].tolist() == [3]
    assert json.loads(arrays["logprobs"][0]) == [{"7": {"logprob": -0.5, "rank": 1, "decoded_token": "é"}}]


def test_sequences_keep_their_places_and_their_ends() -> None:
    encoder = TextEncoder(2, "", ALL)
    first = encoder.encode(output(part(1, "b", 1, finish_reason="stop", cumulative_logprob=-2.0)))
    assert first["text_output"].tolist() == [b"", b"b"]
    assert first["finish_reason"].tolist() == [b"None", b"stop"]
    assert first["cumulative_logprob"].tolist() == [0.0, -2.0]
    second = encoder.encode(output(part(0, "a", 3, finish_reason="length", cumulative_logprob=-1.0)))
    assert second["text_output"].tolist() == [b"a", b""]
    assert second["finish_reason"].tolist() == [b"length", b"stop"]
    assert second["num_output_tokens"].tolist() == [3, 0]
    assert second["cumulative_logprob"].tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_answers_are_json(value: float) -> None:
    """NaN and Infinity as bare words are refused by browsers, Go and Java."""
    entry = SimpleNamespace(logprob=value, rank=1, decoded_token="a")
    done = part(0, "a", 1, cumulative_logprob=value, logprobs=[{7: entry}])
    arrays = TextEncoder(1, "", ALL).encode(output(done))
    assert arrays["cumulative_logprob"].tolist() == [-9999.0]
    assert json.loads(arrays["logprobs"][0], parse_constant=pytest.fail)[0]["7"]["logprob"] == -9999.0
    pooled = SimpleNamespace(outputs=SimpleNamespace(data=Vector([0.5, value])), prompt_token_ids=[1, 2])
    with pytest.raises(errors.InternalError, match="NaN or infinity"):
        encode_embedding(pooled, frozenset())


def test_logprobs_that_were_only_added_up_are_not_told() -> None:
    entry = SimpleNamespace(logprob=-0.5, rank=1, decoded_token="a")
    done = part(0, "a", 1, cumulative_logprob=-0.5, logprobs=[{7: entry}])
    arrays = TextEncoder(1, "", ALL, logprobs=False).encode(output(done))
    assert (arrays["logprobs"].tolist(), arrays["cumulative_logprob"].tolist()) == ([b"null"], [-0.5])


def test_half_a_character_does_not_stop_a_response() -> None:
    assert TextEncoder(1, "", frozenset()).encode(output(part(0, "\ud800", 1)))["text_output"].tolist() == [b"?"]


class Vector:
    """The few calls of a tensor that are made."""

    def __init__(self, values: Any) -> None:
        self._array = np.array(values)
        self.ndim = self._array.ndim

    def tolist(self) -> Any:
        return self._array.tolist()


def test_an_embedding_is_json_text() -> None:
    pooled = SimpleNamespace(outputs=SimpleNamespace(data=Vector([0.5, 1.0])), prompt_token_ids=[1, 2])
    arrays = encode_embedding(pooled, frozenset({"num_input_tokens", "num_output_tokens"}))
    assert json.loads(arrays["text_output"][0]) == [0.5, 1.0]
    assert arrays["num_input_tokens"].tolist() == [2]
    assert arrays["num_output_tokens"].tolist() == [0]


def test_token_embeddings_are_no_embedding() -> None:
    pooled = SimpleNamespace(outputs=SimpleNamespace(data=Vector([[0.5]])), prompt_token_ids=[1])
    with pytest.raises(ValueError, match="2 dimensions"):
        encode_embedding(pooled, frozenset())
