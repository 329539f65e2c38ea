"""What is learned of a request while it is served: its spans, and its line in the log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from vllm_custom.kernel.errors import BackendError
from vllm_custom.observability.spans import Span, Tracer

_OK = "OK"
# For requests that are not followed: a new one for each would cost time.
_NOTHING = contextlib.nullcontext()


@dataclass
class RequestRecord:
    """Of one request.

    Attributes:
        request_id: the client's own, or a random one.
        arrived_at: seconds of the monotonic clock.
        span: of the whole request; None where nothing is traced, and before it has been read.
        key: the name of the key that the client has shown to this process.
        adapter: by its name in requests.
        prompt_tokens, output_tokens: of all its prompts and sequences.
        figures: what the engine says of each prompt, by name.
    """

    request_id: str
    arrived_at: float
    span: Span | None = None
    key: str = ""
    adapter: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    figures: list[Mapping[str, float]] = field(default_factory=list)

    def known(self) -> dict[str, Any]:
        """What is said in addition to id, model and outcome. Times are in seconds, and those of a single prompt."""
        tokens = {"prompt_tokens": self.prompt_tokens, "output_tokens": self.output_tokens}
        cached = [int(each["cached_tokens"]) for each in self.figures if "cached_tokens" in each]
        if cached:
            tokens["cached_tokens"] = sum(cached)
        times = self.figures[0] if len(self.figures) == 1 else {}
        named = {"adapter": self.adapter, "key": self.key}
        return {name: value for name, value in {**named, **times, **tokens}.items() if value != ""}


# The request that is served in this context; None where it is not followed.
RECORD: ContextVar[RequestRecord | None] = ContextVar("RECORD", default=None)
# The span below which the next one begins.
_SPAN: ContextVar[Span | None] = ContextVar("_SPAN", default=None)


def stage(name: str, **attributes: Any) -> AbstractContextManager[None]:
    """A span for a part of the work on the request of this context, where that is traced."""
    span = begin_stage(name, **attributes)
    return _NOTHING if span is None else _staged(span)


@contextlib.contextmanager
def _staged(span: Span) -> Iterator[None]:
    token = _SPAN.set(span)
    try:
        yield
    except BaseException as error:
        span.end(type(error).__name__)
        raise
    else:
        span.end()
    finally:
        with contextlib.suppress(ValueError):  # a generator may be closed in another context
            _SPAN.reset(token)


def begin_stage(name: str, **attributes: Any) -> Span | None:
    """As :func:`stage`, for what the caller ends."""
    parent = _SPAN.get()
    return parent.child(name, attributes) if parent is not None else None


def note_adapter(name: str) -> None:
    """The request of this context uses the adapter ``name``."""
    record = RECORD.get()
    if record is not None:
        record.adapter = name


class Observer:
    """Follows the requests of one model, where their spans or their lines in the log are asked for."""

    def __init__(
        self,
        labels: Mapping[str, str],
        tracer: Tracer | None,
        write: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        """
        Args:
            labels: ``model`` and ``version``.
            tracer: begins spans; None for no spans.
            write: writes the line of a request that has ended; None for no lines.
        """
        self._labels = labels
        self._tracer = tracer
        self._write = write

    @property
    def active(self) -> bool:
        """Whether there is anything to do for a request."""
        return self._tracer is not None or self._write is not None

    @property
    def traces(self) -> bool:
        """Whether requests have spans."""
        return self._tracer is not None

    def arrived(self, request_id: str, arrived_at: float | None = None, key: str = "") -> RequestRecord | None:
        """Of a request that is there; None where there is nothing to do for it."""
        if not self.active:
            return None
        return RequestRecord(request_id, time.monotonic() if arrived_at is None else arrived_at, key=key)

    def begin(self, record: RequestRecord | None, headers: Mapping[str, str] | None) -> None:
        """It has been read. ``headers``: W3C Trace Context of the span above it."""
        if record is None or self._tracer is None:
            return
        ago = time.monotonic() - record.arrived_at
        attributes = {**{f"vllm_custom.{name}": value for name, value in self._labels.items()}}
        attributes["vllm_custom.request_id"] = record.request_id
        record.span = self._tracer.begin("request", headers=headers, seconds_ago=ago, attributes=attributes)

    def admitted(self, record: RequestRecord | None) -> None:
        """It has its place, has been read, and nothing holds it up any more: the time before is a span of its own."""
        if record is not None and record.span is not None and self._tracer is not None:
            headers, ago = record.span.headers, time.monotonic() - record.arrived_at
            self._tracer.begin("admission", headers=headers, seconds_ago=ago).end()

    def ended(self, record: RequestRecord | None, error: BackendError | None) -> None:
        """Its answer is out. Raises nothing that the request could suffer from."""
        if record is None:
            return
        status = _OK if error is None else error.triton_code
        known = record.known()
        if record.span is not None:
            record.span.set({f"vllm_custom.{name}": value for name, value in {**known, "status": status}.items()})
            record.span.end("" if error is None else status)
        if self._write is not None:
            seconds = round(time.monotonic() - record.arrived_at, 6)
            trace = {"trace_id": record.span.trace_id} if record.span is not None else {}
            line = {"request_id": record.request_id, **self._labels, "status": status, "seconds": seconds}
            self._write({**line, **known, **trace})

    def close(self) -> None:
        """Send the spans that wait."""
        if self._tracer is not None:
            self._tracer.close()


def serving(record: RequestRecord | None) -> AbstractContextManager[None]:
    """What runs in this context belongs to the request of ``record``."""
    return _NOTHING if record is None else _serving(record)


@contextlib.contextmanager
def _serving(record: RequestRecord) -> Iterator[None]:
    tokens = RECORD.set(record), _SPAN.set(record.span)
    try:
        yield
    finally:
        RECORD.reset(tokens[0])
        _SPAN.reset(tokens[1])
