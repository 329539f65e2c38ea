"""Request parameters: merge the two ways they arrive in, tell ours from vLLM's, refuse the unknown by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vllm_custom.errors import InvalidRequestError, invalid, listing, shorten

# What Triton itself puts beside the client's parameters.
_TRITON_PARAMETERS = frozenset({"id", "sequence_id", "sequence_start", "sequence_end", "binary_data_output"})
_TRITON_PREFIX = "triton_"


def _from_json(value: Any) -> Any:
    """Objects may be JSON strings: Triton's endpoints take no nested values in ``parameters``."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:  # nested too deep, or a number of thousands of digits
        raise ValueError(f"not JSON: {error}") from error


JsonObject = Annotated[dict[str, Any], BeforeValidator(_from_json)]


class ControlParameters(BaseModel):
    """The request parameters of the contract table; their meaning stands there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_name: str | None = None
    structured_outputs: JsonObject | None = None
    apply_chat_template: bool | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    mm_processor_kwargs: JsonObject = Field(default_factory=dict)
    priority: int = Field(default=0, ge=-(2**63), lt=2**63)  # what vLLM can send to its engine


def parse_parameters(
    request_parameters: str, sampling_parameters: str | None, sampling_names: Sequence[str]
) -> tuple[dict[str, Any], ControlParameters]:
    """Split the parameters into vLLM's sampling parameters (as sent) and ours (typed).

    Args:
        request_parameters: JSON text of the request's own parameters; may be empty.
        sampling_parameters: JSON text of the tensor of that name, which wins.
        sampling_names: fields of the installed vLLM's SamplingParams.

    Raises:
        InvalidRequestError: an unknown name, or a value of the wrong type.
    """
    given = _object(request_parameters or "{}", "parameters")
    given = {key: value for key, value in given.items() if not _is_tritons(key)}
    if sampling_parameters is not None:
        given |= _object(sampling_parameters, "sampling_parameters")
    ours = {key: value for key, value in given.items() if key in ControlParameters.model_fields}
    sampling = {key: value for key, value in given.items() if key not in ours}
    known = [*sampling_names, *ControlParameters.model_fields]
    for name in sampling:
        if name not in sampling_names:
            raise InvalidRequestError(_unknown(name, known))
    try:
        return sampling, ControlParameters.model_validate(ours)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise invalid(name, ours[name], f"a valid value ({first['msg']})") from error


def _is_tritons(key: str) -> bool:
    return key in _TRITON_PARAMETERS or key.startswith(_TRITON_PREFIX)


def _object(text: str, name: str) -> Mapping[str, Any] | dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(name, text, f"a JSON object ({error})") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{name}: expected a JSON object, got {shorten(value)}")
    return value


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown parameter {name!r}{hint} (known: {listing(known)})"
