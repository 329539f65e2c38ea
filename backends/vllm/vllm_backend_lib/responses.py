"""From the engine's outputs to the arrays of a response."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vllm_backend_lib.errors import InternalError
from vllm_backend_lib.interfaces import Array, text_array

# vLLM's OpenAI server writes this for -Infinity.
_LOWEST_LOGPROB = -9999.0

NamedArrays = dict[str, Array]


class TextEncoder:
    """Turns the outputs of one generate call into arrays of `n` elements, one per returned sequence.

    Outputs are deltas or final ones, never cumulative. A delta of a request with n > 1 brings only some of the
    sequences: the others get empty text and no tokens, so that the element's index always tells the sequence.
    """

    def __init__(
        self, sequences: int, prefix: str, additional_outputs: frozenset[str], *, logprobs: bool = True
    ) -> None:
        """`logprobs` is false where vLLM was asked for them only to add them up."""
        self._logprobs = logprobs
        self._sequences = sequences
        self._prefix = prefix
        self._wanted = additional_outputs
        self._finish_reasons = ["None"] * sequences
        self._cumulative_logprobs = [0.0] * sequences

    def encode(self, output: Any) -> NamedArrays:
        """The arrays of one `RequestOutput`, by output name."""
        texts = [self._prefix] * self._sequences
        logprobs = ["null"] * self._sequences
        token_counts = [0] * self._sequences
        for part in output.outputs:
            texts[part.index] += part.text
            token_counts[part.index] = len(part.token_ids)
            self._finish_reasons[part.index] = str(part.finish_reason)
            self._cumulative_logprobs[part.index] = _json_sum(part.cumulative_logprob)
            if self._logprobs and "logprobs" in self._wanted and part.logprobs is not None:
                logprobs[part.index] = logprobs_json(part.logprobs)
        self._prefix = ""
        arrays = {"text_output": _texts(texts)}
        if self._wanted:
            arrays |= self._additional(output, logprobs, token_counts)
        return arrays

    def _additional(self, output: Any, logprobs: list[str], token_counts: list[int]) -> NamedArrays:
        every: dict[str, Callable[[], Array]] = {
            "finish_reason": lambda: _texts(self._finish_reasons),
            "cumulative_logprob": lambda: np.asarray(self._cumulative_logprobs, dtype=np.float32),
            "logprobs": lambda: _texts(logprobs),
            "num_input_tokens": lambda: np.asarray([len(output.prompt_token_ids or ())], dtype=np.uint32),
            "num_output_tokens": lambda: np.asarray(token_counts, dtype=np.uint32),
        }
        return {name: build() for name, build in every.items() if name in self._wanted}


def logprobs_json(logprobs: Sequence[dict[int, Any]]) -> str:
    """The log probabilities of some positions: a JSON list of {token id: {logprob, rank, decoded_token}}."""
    positions = [
        {
            token: {"logprob": _json_logprob(entry.logprob), "rank": entry.rank, "decoded_token": entry.decoded_token}
            for token, entry in position.items()
        }
        for position in logprobs
    ]
    return json.dumps(positions)


def _json_logprob(value: float) -> float:
    """JSON has neither NaN nor infinity, which is what a token that a constraint rules out has."""
    return value if _LOWEST_LOGPROB < value < math.inf else _LOWEST_LOGPROB


def _json_sum(value: float | None) -> float:
    if value is None:
        return 0.0
    return value if math.isfinite(value) else _LOWEST_LOGPROB


def encode_embedding(output: Any, additional_outputs: frozenset[str]) -> NamedArrays:
    """The arrays of a pooling output: the vector as a JSON list in `text_output`."""
    vector = output.outputs.data
    if vector.ndim != 1:
        raise ValueError(f"the model returned {vector.ndim} dimensions where an embedding has one")
    try:
        text = json.dumps(vector.tolist(), allow_nan=False)
    except ValueError as error:
        raise InternalError("the model returned NaN or infinity, which JSON cannot represent") from error
    arrays = {"text_output": _texts([text])}
    if "num_input_tokens" in additional_outputs:
        arrays["num_input_tokens"] = np.asarray([len(output.prompt_token_ids)], dtype=np.uint32)
    if "num_output_tokens" in additional_outputs:
        arrays["num_output_tokens"] = np.asarray([0], dtype=np.uint32)
    return arrays


def _texts(values: list[str]) -> Array:
    return text_array([value.encode("utf-8", "replace") for value in values])
