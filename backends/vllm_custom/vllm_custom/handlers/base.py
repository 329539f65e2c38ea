"""What a handler is: it serves one kind of request. The runner calls it, and answers whatever it raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vllm_custom.errors import UnsupportedError
from vllm_custom.request import Tensors
from vllm_custom.request.context import RequestContext
from vllm_custom.responses import Responder


@dataclass(frozen=True)
class Incoming:
    """A request as Triton handed it over.

    Attributes:
        tensors: input name to array, with the batch dimension where the model has one.
        parameters: JSON text.
        timeout_us: of the KServe request, in microseconds; 0 is none.
        span: W3C Trace Context of Triton's own span, where it traces.
    """

    tensors: Tensors
    parameters: str = "{}"
    timeout_us: int = 0
    span: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Parsed:
    """What a handler read.

    Attributes:
        call: what :meth:`Handler.run` gets.
        timeout_us: microseconds from the request's arrival, 0 for none.
        sequences: how many the engine will run at once for this request.
        additional_outputs: optional outputs that the client asked for.
        trace_headers: W3C Trace Context of the span above this request.
        looks_up: whether it gives the engine nothing to do, and is not followed.
    """

    call: Any
    timeout_us: int = 0
    sequences: int = 1
    additional_outputs: frozenset[str] = frozenset()
    trace_headers: Mapping[str, str] | None = None
    looks_up: bool = False


class Handler(Protocol):
    """One kind of request. Both methods may raise anything; BackendErrors are meant for the client."""

    def parse(self, incoming: Incoming) -> Parsed:
        """Check the request and give it types. Runs off the event loop, and does no work that grows without bound."""

    async def run(self, call: Any, responder: Responder, context: RequestContext) -> None:
        """Serve the request through ``responder``, to its final response."""


def check_stream(*, decoupled: bool) -> None:
    """Refuse ``stream: true`` where the model gives one response per request.

    Raises:
        UnsupportedError: as said.
    """
    if not decoupled:
        raise UnsupportedError("stream: true needs the decoupled transaction policy; this model has decoupled: false")


def trace_of(given: Mapping[str, str] | None, span: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """The span above a request: Triton's, unless the client named another trace than the one that it is part of."""
    if span is None or (given is not None and _trace_id(given) != _trace_id(span)):
        return given
    return span


def _trace_id(headers: Mapping[str, str]) -> str:
    parts = headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) > 1 else ""


def shortest(*timeouts_us: int) -> int:
    """The shortest of several timeouts in microseconds, of which 0 and less mean none; 0 if there is none."""
    return min((timeout for timeout in timeouts_us if timeout > 0), default=0)
