"""Structured outputs: one constraint per request, in any form, compiled before the engine sees it.

``guided_*`` parameters, OpenAI's ``response_format`` and vLLM's ``structured_outputs`` all end as vLLM's
StructuredOutputsParams. What cannot be compiled is refused here, under the name that the client used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from vllm_custom.engine.protocol import (
    ConstraintChecker,
    DeadlyConstraintError,
    Engine,
    RefusedConstraintError,
    SlowConstraintError,
    Verdict,
)
from vllm_custom.errors import InvalidRequestError, RefusedInVllmError, invalid, listing, shorten
from vllm_custom.request.parameters import ControlParameters
from vllm_custom.sampling.flights import Flights
from vllm_custom.sampling.schemas import check_size, escape_free_strings

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_RESPONSE_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
_MAX_LISTING_CHARACTERS = 200
# The most that escape_free_strings and JSON's escapes make a constraint longer.
_GROWTH = 4
_REMEMBERED = 1024
_REFUSED_SECONDS = 60.0
_NOUNS = {
    "json": "a schema",
    "regex": "a regular expression",
    "choice": "choices",
    "grammar": "a grammar",
    "json_object": "a constraint",
    "structural_tag": "a structural tag",
}
T = TypeVar("T")


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


def read_constraint(control: ControlParameters, max_bytes: int = 256 << 10) -> Constraint | None:
    """The one constraint of a request, or None.

    Args:
        control: what the client sent.
        max_bytes: that it may have as JSON, STRUCTURED_MAX_BYTES.

    Raises:
        InvalidRequestError: more than one constraint, one that is too large, or one of a wrong form.
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
            f"structured_outputs: expected exactly one constraint, got {len(found)}: {listing(found)}"
        )
    if not found:
        if structured is None:
            return None
        got = listing(map(shorten, options))[:_MAX_LISTING_CHARACTERS]
        raise InvalidRequestError(f"structured_outputs: expected exactly one of {', '.join(KINDS)}, got {got}")
    ((source, (kind, value)),) = found.items()
    check_size(source, [value, options], max_bytes)
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


@dataclass(frozen=True)
class AcceptedConstraint:
    """A constraint that the engine can take: the parameter that asked for it, and its StructuredOutputsParams."""

    source: str
    params: Any


class ConstraintCompiler:
    """Lets constraints through to the engine that are known to compile, and refuses the others by name.

    For one event loop. Equal constraints are compiled once at a time; accepted ones are remembered, and for a while
    those that took too long or crashed the compiler.
    """

    def __init__(
        self,
        engine: Engine,
        checker: ConstraintChecker,
        *,
        max_bytes: int = 256 << 10,
        seconds: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            engine: follows the constraints.
            checker: compiles, and gives up after ``seconds``.
            max_bytes: size of a constraint, STRUCTURED_MAX_BYTES.
            seconds: time to compile one, STRUCTURED_COMPILE_SECONDS.
            clock: seconds since whenever.
        """
        self._engine = engine
        self._checker = checker
        self._xgrammar = engine.facts.prefers_xgrammar
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._accepted: OrderedDict[bytes, Verdict] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._flights: Flights[bytes, Verdict] = Flights()

    async def read(self, control: ControlParameters) -> AcceptedConstraint | None:
        """A request's one constraint, or None.

        Raises:
            InvalidRequestError: more than one, or one that cannot be compiled; says which parameter, and where in it.
        """
        constraint = read_constraint(control, self._max_bytes)
        if constraint is None:
            return None
        if self._xgrammar and constraint.kind in ("json", "structural_tag"):
            mended = await asyncio.to_thread(escape_free_strings, constraint.value)
            constraint = replace(constraint, value=mended)
        params = _params(self._engine, constraint)
        await self._accept(constraint)
        return AcceptedConstraint(constraint.source, params)

    async def accept(self, kind: str, value: Any, options: Mapping[str, Any]) -> Verdict:
        """What the engine's check would find for a constraint, from wherever it comes.

        Raises:
            RefusedInVllmError: as :meth:`read`.
        """
        source = f"structured_outputs.{kind}"
        try:
            check_size(source, [value, options], _GROWTH * self._max_bytes)
            return await self._accept(Constraint(source, kind, value, options))
        except InvalidRequestError as error:
            raise RefusedInVllmError(str(error)) from error

    async def _accept(self, constraint: Constraint) -> Verdict:
        digest = constraint.digest
        verdict = self._accepted.get(digest)
        if verdict is not None:
            self._accepted.move_to_end(digest)
            return verdict
        until, reason = self._refused.get(digest, (0.0, ""))
        if self._clock() < until:
            raise InvalidRequestError(f"{constraint.source}: {reason}")
        try:
            verdict = await self._flights.get(
                digest, lambda: self._checker.compile(constraint.kind, constraint.value, constraint.options)
            )
        except RefusedConstraintError as error:
            raise InvalidRequestError(f"{constraint.source}: cannot be compiled: {error}") from error
        except (SlowConstraintError, DeadlyConstraintError) as error:
            reason = self._told(constraint, error)
            _remember(self._refused, digest, (self._clock() + _REFUSED_SECONDS, reason))
            raise InvalidRequestError(f"{constraint.source}: {reason}") from error
        _remember(self._accepted, digest, verdict)
        return verdict

    def _told(self, constraint: Constraint, error: Exception) -> str:
        noun = _NOUNS[constraint.kind]
        if isinstance(error, SlowConstraintError):
            limit = f"{self._seconds} seconds (STRUCTURED_COMPILE_SECONDS of this model)"
            return f"expected {noun} that compiles within {limit}, got one that does not"
        return f"expected {noun} that the compiler can process, got one that crashes it or exhausts its memory"


def _remember(known: OrderedDict[bytes, T], digest: bytes, value: T) -> None:
    known[digest] = value
    known.move_to_end(digest)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


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
