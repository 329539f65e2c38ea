"""vLLM's SamplingParams and StructuredOutputsParams, whose classes are handed in: nothing here imports vLLM."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import ValidationError

from .errors import InvalidRequestError, invalid, shorten, suggestion
from .fields import expectation

STRUCTURED_OUTPUTS = "structured_outputs"
# vLLM's or the backend's own business.
_INTERNAL_FIELDS = frozenset({"output_kind", "output_text_buffer_length", "skip_clone"})


def public_fields(params: Any) -> dict[str, Any]:
    """Name to type of every field of ``params``, vLLM's class SamplingParams, that a request may set."""
    hints = typing.get_type_hints(params, include_extras=False)
    names = params.__struct_fields__
    return {name: hints[name] for name in names if not name.startswith("_") and name not in _INTERNAL_FIELDS}


def structured_output_options(params: Any) -> list[str]:
    """Fields of ``params``, vLLM's class StructuredOutputsParams, that a request may set."""
    return [name for name in params.__dataclass_fields__ if not name.startswith("_")]


def build_structured_outputs(
    make: Callable[[Mapping[str, Any]], Any],
    known: Collection[str],
    values: Mapping[str, Any],
    *,
    kind: str = "",
    source: str = STRUCTURED_OUTPUTS,
) -> Any:
    """vLLM's StructuredOutputsParams.

    Args:
        make: from ``values``; raises what pydantic and vLLM raise.
        known: names that ``values`` may have.
        values: what the client sent.
        kind: the key of ``values`` that came in ``source``.
        source: the field that is to blame where vLLM refuses all of it.

    Raises:
        InvalidRequestError: names the key, its value, and what is accepted.
    """
    for name in values:
        if name not in known:
            raise InvalidRequestError(
                f"{STRUCTURED_OUTPUTS}: expected keys among {', '.join(known)}, got {shorten(name)}"
                f"{suggestion(name, known)}"
            )
    try:
        return make(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        field = source if name == kind else f"{STRUCTURED_OUTPUTS}.{name}"
        raise invalid(field, first["input"], expectation(first)) from error
    except Exception as error:  # a ValueError, or a VLLMValidationError from 0.32 on
        raise InvalidRequestError(f"{source}: {error}") from error
