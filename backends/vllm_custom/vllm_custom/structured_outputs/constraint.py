"""Read the one constraint of a request, from whichever of its parameters has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.errors import InvalidRequestError, invalid, listing, shorten

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
# Parameters that hold the fields of StructuredOutputsParams.
_OBJECTS = ("structured_outputs", "guided_decoding")
_ENGINES_OPTIONS = ("backend", "backend_was_auto", "disable_fallback")
_RESPONSE_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
_MAX_LISTING_CHARACTERS = 200


@dataclass(frozen=True)
class Constraint:
    """What the output has to match.

    Attributes:
        source: the parameter that says so, e.g. ``"guided_json"`` or ``"structured_outputs.regex"``.
        kind: one of KINDS.
        value: JSON schemas and structural tags as text, the others as vLLM takes them.
        options: the other fields of StructuredOutputsParams, e.g. ``whitespace_pattern``.
    """

    source: str
    kind: str
    value: Any
    options: Mapping[str, Any]

    @property
    def digest(self) -> bytes:
        """Equal for equal constraints, whatever they are called."""
        options = {name: value for name, value in self.options.items() if value not in (None, False)}
        text = json.dumps([self.kind, self.value, options], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def read_constraint(control: RequestParameters, max_bytes: int = 256 << 10) -> Constraint | None:
    """The one constraint of a request, or None.

    Args:
        control: what the client sent.
        max_bytes: that it may have as JSON, STRUCTURED_MAX_BYTES.

    Raises:
        InvalidRequestError: more than one constraint, one that is too large, or one of a wrong form.
    """
    objects = {name: given for name in _OBJECTS if (given := getattr(control, name)) is not None}
    found = {
        f"{name}.{key}": (key, value)
        for name, given in objects.items()
        for key, value in given.items()
        if key in KINDS and value is not None
    }
    options = {key: value for given in objects.values() for key, value in given.items() if key not in KINDS}
    for kind in KINDS:
        value = getattr(control, f"guided_{kind}")
        if value is not None and value is not False:
            found[f"guided_{kind}"] = (kind, value)
    if control.response_format is not None:
        found |= _response_format(control.response_format)
    if len(found) > 1:
        raise InvalidRequestError(
            f"structured_outputs: expected exactly one constraint, got {len(found)}: {listing(found)}"
        )
    if not found:
        if not objects:
            return None
        got = listing(map(shorten, options))[:_MAX_LISTING_CHARACTERS]
        raise InvalidRequestError(f"{min(objects)}: expected exactly one of {', '.join(KINDS)}, got {got}")
    _check_options(control, options)
    ((source, (kind, value)),) = found.items()
    check_size(source, [value, options], max_bytes)
    return Constraint(source, kind, _as_text(source, value) if kind in ("json", "structural_tag") else value, options)


def _check_options(control: RequestParameters, options: dict[str, Any]) -> None:
    """Leave out what clients of guided_decoding send without meaning anything by it."""
    if control.guided_decoding is None:
        return
    for name in _ENGINES_OPTIONS:
        if options.pop(name, None):
            raise InvalidRequestError(
                f"guided_decoding.{name}: may not be set by requests; the engine has one compiler for all of them "
                "(structured_outputs_config of model.json)"
            )


def check_size(source: str, value: Any, max_bytes: int) -> None:
    """Refuse what would be longer than ``max_bytes`` as JSON, without writing it: looks at no more than that.

    Quotes and escapes do not count, so that a text counts as its bytes.

    Raises:
        InvalidRequestError: names ``source`` and STRUCTURED_MAX_BYTES.
    """
    left = max_bytes
    waiting = [value]
    while waiting and left >= 0:
        item = waiting.pop()
        if isinstance(item, str):
            left -= len(item) if len(item) > left else len(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, (list, dict)):
            left -= len(item)
            if left >= 0:
                waiting += item
                waiting += item.values() if isinstance(item, dict) else ()
        else:
            left -= 1
    if left < 0:
        raise InvalidRequestError(
            f"{source}: expected at most {max_bytes} bytes (STRUCTURED_MAX_BYTES of this model), got more"
        )


def _response_format(given: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    kind = given.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": ("json_object", True)}
    if kind == "json_schema":
        wrapper = given.get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
        if not isinstance(schema, dict):
            raise invalid("response_format.json_schema.schema", schema, "a JSON schema as an object")
        return {"response_format.json_schema.schema": ("json", schema)}
    if kind == "structural_tag":
        return {"response_format": ("structural_tag", dict(given))}
    raise invalid("response_format.type", kind, f"one of {', '.join(_RESPONSE_FORMATS)}")


def _as_text(source: str, value: Any) -> str:
    """A schema or structural tag as JSON text; text is checked, so that an error can say where it is broken."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        text = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, RecursionError) as error:
        raise invalid(source, value, f"a JSON object ({error})") from error
    if not isinstance(parsed, dict):
        raise invalid(source, value, "a JSON object")
    return text
