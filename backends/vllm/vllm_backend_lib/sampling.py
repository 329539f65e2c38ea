"""From the JSON text of a request's parameters to vLLM's `SamplingParams`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from vllm_backend_lib.kernel import engine_errors, errors, fields, json_objects, sampling

LORA_KEY = "lora_name"
# Triton's generate endpoint reports the request's id among its parameters.
_TRITON_KEYS = frozenset({"id"})


def parse_parameters(text: str, source: str) -> dict[str, Any]:
    """The parameters as a dict; `source` names the input they came from, for the error message."""
    if not text.strip():
        return {}
    return json_objects.parse_object(text, source, errors.InvalidRequestError)


def take_lora_name(parameters: dict[str, Any]) -> str | None:
    """Removes `lora_name` from the parameters and returns it."""
    name = parameters.pop(LORA_KEY, None)
    if name is not None and not isinstance(name, str):
        raise errors.invalid(LORA_KEY, name, "the name of a LoRA adapter (a string)")
    return name


def build_sampling_params(parameters: Mapping[str, Any], *, stream: bool) -> Any:
    """vLLM's SamplingParams from client parameters (without `lora_name`).

    Numbers and truth values may be given as strings, lists and objects as JSON strings, since Triton's generate
    endpoint takes only scalars. Raises InvalidRequestError naming the first wrong field.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    given = {name: value for name, value in parameters.items() if name not in _TRITON_KEYS}
    structured = _structured_outputs(given.pop(sampling.STRUCTURED_OUTPUTS, None))
    reader = _reader()
    for name in given:
        if name not in reader.names:
            raise _unknown(name, [*reader.names, sampling.STRUCTURED_OUTPUTS, LORA_KEY])
    values = reader.read(given) | ({} if structured is None else {sampling.STRUCTURED_OUTPUTS: structured})
    kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    try:
        return SamplingParams(**values, output_kind=kind)
    except Exception as error:
        raise _refused(error) from error


@functools.cache
def _reader() -> fields.FieldReader:
    """Of what a client may set in this vLLM release."""
    from vllm.sampling_params import SamplingParams

    known = sampling.public_fields(SamplingParams)
    known.pop(sampling.STRUCTURED_OUTPUTS, None)  # its class has no say in what its fields may be
    return fields.FieldReader(known)


def _structured_outputs(value: Any) -> Any:
    """vLLM's StructuredOutputsParams from a JSON object, or from a string that holds one."""
    from vllm.sampling_params import StructuredOutputsParams

    if value is None:
        return None
    if isinstance(value, str):
        value = parse_parameters(value, sampling.STRUCTURED_OUTPUTS)
    if not isinstance(value, dict):
        raise errors.invalid(sampling.STRUCTURED_OUTPUTS, value, "a JSON object, or a string that holds one")
    known = sampling.structured_output_options(StructuredOutputsParams)
    return sampling.build_structured_outputs(lambda values: StructuredOutputsParams(**values), known, value)


def _unknown(name: str, known: list[str]) -> errors.InvalidRequestError:
    hint = errors.suggestion(name, known)
    return errors.InvalidRequestError(
        f"unknown parameter {errors.shorten(name)}{hint} (known: {errors.listing(known)})"
    )


def _refused(error: Exception) -> errors.InvalidRequestError:
    """vLLM's own check failed: its sentence names the field and the value."""
    explained = engine_errors.explain(error)
    if isinstance(explained, errors.InvalidRequestError):
        return explained
    return errors.InvalidRequestError(f"sampling parameters were refused: {error}")
