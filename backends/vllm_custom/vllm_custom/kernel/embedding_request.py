"""The official input ``embedding_request``: a JSON object with ``input`` and ``pooling_params``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import invalid

NAME = "embedding_request"


class EmbeddingRequest(NamedTuple):
    """A prompt as text or token ids, and the length of the vector where it is not the model's own."""

    prompt: str | list[int]
    dimensions: int | None


def read_embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Check the object that the input holds.

    Raises:
        InvalidRequestError: names the key, its value, and what is accepted.
    """
    prompt: Any = body.get("input")
    options = body.get("pooling_params") or {}
    if not isinstance(prompt, str) and not _is_token_list(prompt):
        raise invalid(f"{NAME}.input", prompt, "a string, or a list of token ids")
    if not isinstance(options, dict):
        raise invalid(f"{NAME}.pooling_params", options, "an object")
    given = options.get("dimensions")
    # Triton's OpenAI frontend puts the number into a list.
    number = given[0] if isinstance(given, list) and len(given) == 1 else given
    if number is not None and (type(number) is not int or number < 1):
        raise invalid(f"{NAME}.pooling_params.dimensions", given, "a positive integer")
    return EmbeddingRequest(prompt, number)


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)
