"""Numbers that JSON can hold: Triton writes NaN and infinity as bare words, which browsers, Go and Java refuse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import InternalError

# What vLLM's OpenAI server writes for a token that a constraint rules out: JSON has no -Infinity.
LOWEST_LOGPROB = -9999.0
_ASK_FOR_LOGPROBS = ("logprobs", "logprob_token_ids")

PlainLogprobs: TypeAlias = "list[dict[int, dict[str, Any]] | None]"


def json_logprob(value: float) -> float:
    """The log probability of a token; what is no number or infinite counts as the lowest."""
    return value if LOWEST_LOGPROB < value < math.inf else LOWEST_LOGPROB


def json_sum(value: float | None) -> float:
    """The log probability of a sequence: 0 before its first token, the lowest where it cannot be told."""
    if value is None:
        return 0.0
    return value if math.isfinite(value) else LOWEST_LOGPROB


def plain_logprobs(positions: Sequence[Any] | None) -> PlainLogprobs | None:
    """vLLM's log probabilities as plain values for JSON, one object per token.

    None stands for the first token of a prompt, which nothing precedes.
    """
    if positions is None:
        return None
    return [None if position is None else _position(position) for position in positions]


def needs_logprobs(sampling: Mapping[str, Any], additional: frozenset[str]) -> bool:
    """Whether vLLM has to be asked for ``logprobs: 0`` to know the cumulative_logprob that the client wants.

    Args:
        sampling: fields of SamplingParams, as sent.
        additional: names of the optional outputs that the client asked for.
    """
    return "cumulative_logprob" in additional and all(sampling.get(name) is None for name in _ASK_FOR_LOGPROBS)


def check_finite(output: str, values: npt.NDArray[np.float32] | Sequence[float]) -> None:
    """Refuse to answer with what is no number.

    Args:
        output: its name, for the message.
        values: of an embedding, or scores.

    Raises:
        InternalError: NaN or infinity is among them: the model's weights or its dtype do not fit.
    """
    if not np.isfinite(values).all():
        raise InternalError(f"{output}: the model returned NaN or infinity, which JSON cannot represent")


def _position(position: Any) -> dict[int, dict[str, Any]]:
    return {
        token: {
            "logprob": json_logprob(entry.logprob),
            "rank": entry.rank,
            "decoded_token": entry.decoded_token,
        }
        for token, entry in position.items()
    }
