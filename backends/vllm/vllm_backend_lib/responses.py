"""From the engine's outputs to the arrays of a response."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from vllm_backend_lib.interfaces import Array
from vllm_backend_lib.kernel import numbers, tensors

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
            self._cumulative_logprobs[part.index] = numbers.json_sum(part.cumulative_logprob)
            if self._logprobs and "logprobs" in self._wanted and part.logprobs is not None:
                logprobs[part.index] = json.dumps(numbers.plain_logprobs(part.logprobs))
        self._prefix = ""
        arrays = {"text_output": tensors.text_array(texts)}
        if self._wanted:
            arrays |= self._additional(output, logprobs, token_counts)
        return arrays

    def _additional(self, output: Any, logprobs: list[str], token_counts: list[int]) -> NamedArrays:
        every: dict[str, Callable[[], Array]] = {
            "finish_reason": lambda: tensors.text_array(self._finish_reasons),
            "cumulative_logprob": lambda: np.asarray(self._cumulative_logprobs, dtype=np.float32),
            "logprobs": lambda: tensors.text_array(logprobs),
            "num_input_tokens": lambda: np.asarray([len(output.prompt_token_ids or ())], dtype=np.uint32),
            "num_output_tokens": lambda: np.asarray(token_counts, dtype=np.uint32),
        }
        return {name: build() for name, build in every.items() if name in self._wanted}


def encode_embedding(output: Any, additional_outputs: frozenset[str]) -> NamedArrays:
    """The arrays of a pooling output: the vector as a JSON list in `text_output`."""
    vector = output.outputs.data
    if vector.ndim != 1:
        raise ValueError(f"the model returned {vector.ndim} dimensions where an embedding has one")
    values = vector.tolist()
    numbers.check_finite("embedding", values)
    arrays = {"text_output": tensors.text_array([json.dumps(values)])}
    if "num_input_tokens" in additional_outputs:
        arrays["num_input_tokens"] = np.asarray([len(output.prompt_token_ids)], dtype=np.uint32)
    if "num_output_tokens" in additional_outputs:
        arrays["num_output_tokens"] = np.asarray([0], dtype=np.uint32)
    return arrays
