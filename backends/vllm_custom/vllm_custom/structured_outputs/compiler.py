"""Compile a constraint before the engine sees it; one that cannot be compiled is refused under the client's name."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.engine.protocol import (
    ConstraintChecker,
    DeadlyConstraintError,
    Engine,
    RefusedConstraintError,
    SlowConstraintError,
    Verdict,
)
from vllm_custom.errors import InvalidRequestError, RefusedInVllmError, shorten
from vllm_custom.kernel.sampling import build_structured_outputs
from vllm_custom.runtime.single_flight import SingleFlight
from vllm_custom.structured_outputs.constraint import Constraint, check_size, read_constraint
from vllm_custom.structured_outputs.xgrammar_workarounds import lengths_as_patterns

# The most that lengths_as_patterns and JSON's escapes make a constraint longer.
GROWTH = 4
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
        self._compilations: SingleFlight[bytes, Verdict] = SingleFlight()

    async def read(self, control: RequestParameters) -> AcceptedConstraint | None:
        """A request's one constraint, or None.

        Raises:
            InvalidRequestError: more than one, or one that cannot be compiled; says which parameter, and where in it.
        """
        constraint = read_constraint(control, self._max_bytes)
        if constraint is None:
            return None
        if self._xgrammar and constraint.kind in ("json", "structural_tag"):
            rewritten = await asyncio.to_thread(lengths_as_patterns, constraint.value)
            constraint = replace(constraint, value=rewritten)
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
            check_size(source, [value, options], GROWTH * self._max_bytes)
            return await self._accept(Constraint(source, kind, value, options))
        except InvalidRequestError as error:
            raise RefusedInVllmError(str(error)) from error

    async def _accept(self, constraint: Constraint) -> Verdict:
        self._check_options(constraint.options)
        digest = constraint.digest
        verdict = self._accepted.get(digest)
        if verdict is not None:
            self._accepted.move_to_end(digest)
            return verdict
        until, reason = self._refused.get(digest, (0.0, ""))
        if self._clock() < until:
            raise InvalidRequestError(f"{constraint.source}: {reason}")
        try:
            verdict = await self._compilations.get(
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

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse what the engine would pass over, since its own configuration decides about it."""
        for name, own in self._engine.facts.constraint_options.items():
            if options.get(name) not in (None, False, own):
                raise InvalidRequestError(
                    f"structured_outputs.{name}: expected {shorten(own)}, which model.json sets for all requests "
                    f"(structured_outputs_config), got {shorten(options[name])}"
                )

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
    return build_structured_outputs(
        engine.structured_outputs,
        engine.structured_output_options,
        {constraint.kind: constraint.value, **constraint.options},
        kind=constraint.kind,
        source=constraint.source,
    )
