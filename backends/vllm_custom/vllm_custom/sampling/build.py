"""Build vLLM's SamplingParams from what a client sent.

Types come from the installed vLLM's own field annotations, so every field of every version is accepted; strings
that hold numbers, booleans, lists or objects are read as such. Defaults are those of ``vllm serve``: the model's
generation_config, then 16 new tokens for a raw prompt and the rest of the context for a templated one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vllm_custom import compat
from vllm_custom.errors import BackendError, InvalidRequestError, UnsupportedError, invalid

RAW_PROMPT_MAX_TOKENS = 16


def sampling_fields() -> dict[str, Any]:
    """Name to type of the fields of SamplingParams that a request may set by name.

    ``structured_outputs`` is not among them: it is one of several ways to ask for guided decoding.
    """
    fields = compat.sampling_fields()
    fields.pop("structured_outputs", None)
    return fields


class SamplingBuilder:
    """Knows the fields of SamplingParams and the model's defaults; one per model."""

    def __init__(self, engine: Any) -> None:
        fields = sampling_fields()
        self._adapters: dict[str, TypeAdapter[Any]] = {
            name: TypeAdapter(annotation, config={"arbitrary_types_allowed": True, "allow_inf_nan": False})
            for name, annotation in fields.items()
        }
        self._defaults = compat.default_sampling(engine)

    @property
    def names(self) -> list[str]:
        """Fields that a request may set."""
        return list(self._adapters)

    def build(self, given: Mapping[str, Any], structured_outputs: Any, *, stream: bool, templated: bool) -> Any:
        """The SamplingParams of one request.

        Args:
            given: fields by name, as sent.
            structured_outputs: vLLM's StructuredOutputsParams, or None.
            stream: each output holds what is new, else the only output is the last one.
            templated: whether the prompt went through the chat template (decides the default of max_tokens).

        Raises:
            InvalidRequestError: a value of the wrong type or outside vLLM's limits.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        values = {name: self._coerce(name, value) for name, value in given.items()}
        defaults = dict(self._defaults)
        if not templated:
            defaults["max_tokens"] = RAW_PROMPT_MAX_TOKENS
        else:
            defaults.setdefault("max_tokens", None)
        if structured_outputs is not None:
            values["structured_outputs"] = structured_outputs
        kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        try:
            return SamplingParams(**(defaults | values), output_kind=kind)
        except Exception as error:
            raise _refused(error) from error

    def _coerce(self, name: str, value: Any) -> Any:
        adapter = self._adapters[name]
        problems: list[ValidationError] = []
        for reading in _readings(value):
            try:
                return _in_range(name, adapter.validate_python(reading))
            except ValidationError as error:
                problems.append(error)
        problem = problems[0].errors()[0]["msg"]
        raise invalid(name, value, f"a value that vLLM's sampling parameter takes ({problem})") from problems[0]


def _readings(value: Any) -> list[Any]:
    """What a value as sent may mean, the likeliest first: a string may be JSON.

    ``stop`` takes a string as well as a list, so the text of a list is read as a list first.
    """
    if not isinstance(value, str):
        return [value]
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return [value]
    return [parsed, value] if isinstance(parsed, list) else [value, parsed]


def _in_range(name: str, value: Any) -> Any:
    """vLLM sends its parameters to the engine as 64-bit integers."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise invalid(name, value, "an integer of 64 bits")
    return value


def _refused(error: Exception) -> BackendError:
    if isinstance(error, NotImplementedError):
        return UnsupportedError(str(error))
    if isinstance(error, (ValueError, TypeError)):
        return InvalidRequestError(str(error))
    return compat.engine_error(error) or InvalidRequestError(f"sampling parameters were refused: {error}")
