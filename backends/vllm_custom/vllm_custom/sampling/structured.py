"""Guided decoding: one constraint per request, however it was asked for, compiled before the engine sees it.

``guided_*`` parameters, OpenAI's ``response_format`` and vLLM's ``structured_outputs`` all end as vLLM's
StructuredOutputsParams. What cannot be compiled is refused here, under the name that the client used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from vllm_custom.engine.protocol import Engine
from vllm_custom.errors import InvalidRequestError, invalid, listing
from vllm_custom.request.parameters import ControlParameters
from vllm_custom.sampling.schemas import escape_free_strings

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_RESPONSE_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
_REMEMBERED = 1024
_MAX_REASON_CHARACTERS = 1000
# The native compilers put the time and their own source file before what they have to say.
_COMPILER_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ")


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
        text = json.dumps([self.kind, self.value, dict(self.options)], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def read_constraint(control: ControlParameters) -> Constraint | None:
    """The one constraint of a request, or None.

    Raises:
        InvalidRequestError: more than one constraint, or one of a wrong form.
    """
    structured = control.structured_outputs
    found: dict[str, tuple[str, Any]] = {}
    options: dict[str, Any] = {}
    for key, value in (structured or {}).items():
        if key not in KINDS:
            options[key] = value
        elif value is not None:
            found[f"structured_outputs.{key}"] = (key, value)
    for kind in KINDS:
        value = getattr(control, f"guided_{kind}")
        if value is not None and value is not False:
            found[f"guided_{kind}"] = (kind, value)
    if control.response_format is not None:
        found |= _response_format(control.response_format)
    if len(found) > 1:
        raise InvalidRequestError(
            f"guided decoding: expected exactly one constraint, got {len(found)}: {listing(found)}"
        )
    if not found:
        if structured is None:
            return None
        raise InvalidRequestError(
            f"structured_outputs: expected exactly one of {', '.join(KINDS)}, got {listing(map(repr, options))}"
        )
    ((source, (kind, value)),) = found.items()
    return Constraint(source, kind, _as_text(source, value) if kind in ("json", "structural_tag") else value, options)


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


class ConstraintCompiler:
    """Makes vLLM's StructuredOutputsParams and has them checked, off the event loop, by the engine's own compilers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._xgrammar = engine.facts.prefers_xgrammar
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    async def compile(self, constraint: Constraint | None) -> Any:
        """The StructuredOutputsParams of ``constraint``; None for None.

        Raises:
            InvalidRequestError: it cannot be compiled; says which parameter, and where in it.
        """
        if constraint is None:
            return None
        if self._xgrammar and constraint.kind in ("json", "structural_tag"):
            mended = await asyncio.to_thread(escape_free_strings, constraint.value)
            constraint = replace(constraint, value=mended)
        params = _params(self._engine, constraint)
        digest = constraint.digest
        if digest not in self._accepted:
            await asyncio.to_thread(self._compile, constraint)
            self._accepted[digest] = None
            if len(self._accepted) > _REMEMBERED:
                self._accepted.popitem(last=False)
        return params

    def _compile(self, constraint: Constraint) -> None:
        try:
            self._engine.check_structured_outputs(_params(self._engine, constraint))
        except Exception as error:
            where = _place(constraint) or _reasons(error)
            raise InvalidRequestError(f"{constraint.source}: cannot be compiled: {where}") from error


def _params(engine: Engine, constraint: Constraint) -> Any:
    names = engine.structured_output_options
    for name in constraint.options:
        if name not in names:
            raise invalid("structured_outputs", name, f"keys among {', '.join(names)}")
    try:
        return engine.structured_outputs({constraint.kind: constraint.value, **constraint.options})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        source = constraint.source if name == constraint.kind else f"structured_outputs.{name}"
        raise invalid(source, first["input"], f"another type ({first['msg']})") from error
    except Exception as error:  # a ValueError, or a VLLMValidationError from 0.32 on
        raise InvalidRequestError(f"{constraint.source}: {error}") from error


def _place(constraint: Constraint) -> str | None:
    """Where a refused constraint is wrong by the rules of its own language, or None if it is not."""
    if constraint.kind == "regex":
        try:
            re.compile(constraint.value)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
    if constraint.kind == "json":
        return _schema_error(json.loads(constraint.value))
    return None


def _schema_error(schema: dict[str, Any]) -> str | None:
    try:
        from jsonschema import SchemaError, validators
    except ImportError:  # comes with vLLM, but is not named among its direct dependencies
        return None
    try:
        validators.validator_for(schema, default=validators.Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"at {error.json_path}: {error.message[:_MAX_REASON_CHARACTERS]}"
    except Exception:  # a schema that trips the checker itself: vLLM's own reason is told instead
        return None
    return None


def _reasons(error: BaseException) -> str:
    """vLLM's message and, since that is often bare, the compiler's below it."""
    messages: list[str] = []
    current: BaseException | None = error
    while current is not None and len(messages) < 4:
        text = _COMPILER_PREFIX.sub("", str(current)).strip()
        if text and not any(text in message for message in messages):
            messages.append(text)
        current = current.__cause__ or current.__context__
    return ": ".join(messages)[:_MAX_REASON_CHARACTERS] or type(error).__name__
