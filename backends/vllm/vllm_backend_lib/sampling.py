"""From the JSON text of a request's parameters to vLLM's `SamplingParams`."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from vllm_backend_lib.errors import InvalidRequestError, invalid, reason_of, shorten
from vllm_backend_lib.jsontext import parse_object

LORA_KEY = "lora_name"
STRUCTURED_OUTPUTS_KEY = "structured_outputs"

# Fields of SamplingParams that are vLLM's or this backend's own business, and none of the client's.
_RESERVED_FIELDS = frozenset({"output_kind", "skip_clone", "output_text_buffer_length"})
# Triton's generate endpoint reports the request's id among its parameters.
_TRITON_KEYS = frozenset({"id"})

_TYPE_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
    dict: "an object",
}


def parse_parameters(text: str, source: str) -> dict[str, Any]:
    """The parameters as a dict; `source` names the input they came from, for the error message."""
    if not text.strip():
        return {}
    try:
        return parse_object(text)
    except ValueError as error:
        raise InvalidRequestError(f"{source}: {error}") from error


def take_lora_name(parameters: dict[str, Any]) -> str | None:
    """Removes `lora_name` from the parameters and returns it."""
    name = parameters.pop(LORA_KEY, None)
    if name is not None and not isinstance(name, str):
        raise invalid(LORA_KEY, shorten(name), "the name of a LoRA adapter (a string)")
    return name


def build_sampling_params(parameters: Mapping[str, Any], *, stream: bool) -> Any:
    """vLLM's SamplingParams from client parameters (without `lora_name`).

    Numbers and truth values may be given as strings, lists and objects as JSON strings, since Triton's generate
    endpoint takes only scalars. Raises InvalidRequestError naming the first wrong field.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    fields = sampling_fields()
    values = {name: _field_value(name, value, fields) for name, value in parameters.items() if name not in _TRITON_KEYS}
    kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    try:
        return SamplingParams(**values, output_kind=kind)
    except Exception as error:
        raise _refused(error) from error


@functools.cache
def sampling_fields() -> dict[str, Any]:
    """The sampling parameters that a client may set in this vLLM release, with their types."""
    from vllm.sampling_params import SamplingParams

    hints = typing.get_type_hints(SamplingParams)
    names = (name for name in SamplingParams.__struct_fields__ if not name.startswith("_"))
    return {name: hints.get(name, Any) for name in names if name not in _RESERVED_FIELDS}


def _field_value(name: str, value: Any, fields: Mapping[str, Any]) -> Any:
    if name not in fields:
        raise unknown_name(name, [*fields, LORA_KEY], "parameters of a request")
    if name == STRUCTURED_OUTPUTS_KEY:
        return build_structured_outputs(value)
    return coerce(name, value, fields[name])


def build_structured_outputs(value: Any) -> Any:
    """vLLM's StructuredOutputsParams from a JSON object, or from a string that holds one."""
    from vllm.sampling_params import StructuredOutputsParams

    if value is None:
        return None
    if isinstance(value, str):
        value = parse_parameters(value, STRUCTURED_OUTPUTS_KEY)
    if not isinstance(value, dict):
        raise invalid(STRUCTURED_OUTPUTS_KEY, shorten(value), "a JSON object, or a string that holds one")
    hints = typing.get_type_hints(StructuredOutputsParams)
    # vLLM drops unknown fields here without a word.
    known = [field.name for field in dataclasses.fields(StructuredOutputsParams) if field.init]
    for name in value:
        if name not in known:
            raise unknown_name(f"{STRUCTURED_OUTPUTS_KEY}.{name}", known, f"fields of {STRUCTURED_OUTPUTS_KEY}")
    values = {name: coerce(f"{STRUCTURED_OUTPUTS_KEY}.{name}", given, hints[name]) for name, given in value.items()}
    try:
        return StructuredOutputsParams(**values)
    except Exception as error:
        raise _refused(error, STRUCTURED_OUTPUTS_KEY) from error


def coerce(field: str, value: Any, wanted: Any) -> Any:
    """`value` as the type `wanted`, scalars from strings and collections from JSON strings where need be."""
    import msgspec

    candidates = [value]
    if isinstance(value, str) and value[:1] in ("[", "{") and _takes_collection(wanted):
        with contextlib.suppress(ValueError):  # an ordinary string that begins with a bracket
            candidates.insert(0, json.loads(value))
    for candidate in candidates:
        try:
            return msgspec.convert(candidate, wanted, strict=False)
        except msgspec.ValidationError:  # two rounds at most
            continue
        except TypeError:
            return candidate  # a type of vLLM's own, which vLLM checks itself
    raise invalid(field, shorten(value), describe_type(wanted))


def describe_type(wanted: Any) -> str:
    """The type in words, for a client that speaks JSON."""
    arguments = typing.get_args(wanted)
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(argument) for argument in arguments)
    if origin is list:
        return f"a list (each element {describe_type(arguments[0])})"
    if origin is dict:
        return "an object"
    return _TYPE_WORDS.get(wanted, getattr(wanted, "__name__", str(wanted)))


def unknown_name(name: str, known: Iterable[str], what: str) -> InvalidRequestError:
    """An error for a name that is not known, with the nearest known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name.rpartition(".")[2], known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"{what}: {', '.join(known)}"
    return InvalidRequestError(f"{shorten(name)} is not a known parameter; {hint}")


def _takes_collection(wanted: Any) -> bool:
    if wanted in (list, dict) or typing.get_origin(wanted) in (list, dict):
        return True
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return any(_takes_collection(argument) for argument in typing.get_args(wanted))
    return dataclasses.is_dataclass(wanted)


def _refused(error: Exception, field: str = "sampling parameters") -> InvalidRequestError:
    """vLLM's own check failed: its sentence names the field and the value."""
    return InvalidRequestError(f"{field}: {reason_of(error) or type(error).__name__}")
