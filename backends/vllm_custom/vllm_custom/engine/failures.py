"""What a client is told when the engine gives up a request."""

from __future__ import annotations

from typing import Any

from vllm_custom.errors import BackendError, InvalidRequestError, UnavailableError, UnsupportedError

# With a constraint, each of these can leave no token at all: vLLM then ends the request with an error. A logit_bias
# is finite, and cannot.
_MASKS = ("allowed_token_ids", "bad_words", "min_tokens")


def engine_failure(params: Any, constraint: str) -> BackendError:
    """The error for a request that the engine ended with the finish reason "error".

    Args:
        params: its SamplingParams or PoolingParams.
        constraint: the parameter that asked for structured outputs, or nothing.
    """
    if not constraint:
        return UnavailableError("the engine could not serve the request; try again")
    masks = [name for name in _MASKS if getattr(params, name, None)]
    if masks:
        return InvalidRequestError(
            f"{masks[0]}: expected to leave tokens that satisfy {constraint}, got none at some position in the text"
        )
    return UnsupportedError(f"{constraint}: the engine could not follow the constraint to its end")
