"""The life of one request: admission, deadline, cancellation, error, and exactly one final response."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from vllm_custom.engine import Engine
from vllm_custom.errors import (
    BackendError,
    DeadlineExceededError,
    InternalError,
    RequestCancelledError,
    UnavailableError,
)
from vllm_custom.handlers import Handler, Parsed, Router
from vllm_custom.kernel import official_texts
from vllm_custom.observability import Log, Observer, serving
from vllm_custom.request.context import RequestContext
from vllm_custom.responses import Responder
from vllm_custom.runtime.async_utils import call_on
from vllm_custom.serving.admission import Admission, Ticket
from vllm_custom.serving.health import Health
from vllm_custom.serving.protocols import Base, Transport, Watch

_MICROSECONDS = 1_000_000
# Libraries may lose a cancellation that meets the result they wait for; what still runs is cancelled again.
_CANCEL_AGAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Surroundings:
    """What all requests of a model share; ``observe`` is told how each ended, and after how many seconds."""

    model_name: str
    base: Base
    engine: Engine
    transport: Transport
    router: Router
    admission: Admission
    health: Health
    watch: Watch
    log: Log
    observer: Observer
    observe: Callable[[BackendError | None, float], None]


class RequestLife:
    """One request, from Triton's execute thread to the final response. Nothing it is asked to do may raise.

    ``responder`` has to be set before :meth:`begin`. The client is answered at the moment in which the outcome is
    known. What runs on after that (a cancellation that is lost, a thread that cannot be stopped) answers no client.
    """

    responder: Responder

    def __init__(self, surroundings: Surroundings, context: RequestContext) -> None:
        self._with = surroundings
        self._context = context
        self._ticket: Ticket | None = None
        self._reason: BackendError | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelling = False
        self._looks_up = False
        self._record = surroundings.observer.arrived(context.request_id, context.arrived_at)

    @property
    def request_id(self) -> str:
        """The client's own, or a random one."""
        return self._context.request_id

    def begin(self, request: object) -> None:
        """Admit and read the request, and start to serve it. Called by Triton's execute thread."""
        try:
            self._admit(request)
            incoming = self._with.transport.read(request)
            handler = self._with.router.handler(incoming.tensors)
            parsed = handler.parse(incoming)
            assert self._ticket is not None
            self._ticket.grow(parsed.sequences)
            if not parsed.sequences:  # what says how the model is waits for nothing
                self._with.health.check()
            self.responder.additional_outputs = parsed.additional_outputs
            self._context = self._context.traced(parsed.trace_headers)
            self._follow(parsed)
            self._start(handler, parsed)
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Answer with ``error``, whatever it is, where there is no answer yet; then write it to the log."""
        if self.responder.closed:
            return
        answer = self._explained(error)
        for attempt in (answer, self._internal()):
            try:
                self.responder.fail(attempt)
                break
            except BaseException:  # noqa: S112  # an error that cannot even be written down; the next one can
                continue
        self._note(error, answer)

    def before_final(self) -> None:
        """The final response is about to be sent: a client that waits for it may send the next request at once."""
        if self._ticket is not None:
            self._ticket.leave()

    def after_final(self, error: BackendError | None) -> None:
        """The final response has been sent, or could not be: work that still runs is of no use."""
        with contextlib.suppress(Exception):
            if not self._looks_up:
                self._with.observe(error, time.monotonic() - self._context.arrived_at)
            self._with.observer.ended(self._record, error)
        loop = self._with.base.event_loop
        if self._task is not None and not self._task.done():
            call_on(loop, self._cancel)
        call_on(loop, self._with.base.request_finished)

    def _admit(self, request: object) -> None:
        admission, health, leaving = self._with.admission, self._with.health, self._with.base.shutting_down
        if (admission.is_full or leaving or not health.ready) and self._with.transport.looks_up(request):
            self._follow_not()
        self._ticket = admission.enter(counted=not self._looks_up)
        if leaving:
            raise UnavailableError(f"model {self._with.model_name} is being unloaded")
        if not health.may_wait:
            health.check()

    def _follow(self, parsed: Parsed) -> None:
        if parsed.looks_up:
            self._follow_not()
        self._with.observer.begin(self._record, parsed.trace_headers)

    def _follow_not(self) -> None:
        """What is looked up, as by frontends every few seconds, is neither counted nor traced nor a line in the log."""
        self._looks_up, self._record = True, None

    def _start(self, handler: Handler, parsed: Parsed) -> None:
        work = self._serve(handler, parsed)
        try:
            running = asyncio.run_coroutine_threadsafe(work, self._with.base.event_loop)
        except BaseException:
            work.close()
            raise
        # A task that is cancelled before its first step never runs, and never answers.
        running.add_done_callback(lambda _: self.fail(asyncio.CancelledError()))

    async def _serve(self, handler: Handler, parsed: Parsed) -> None:
        """Run the handler; whatever ends it early is answered here."""
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        gone = functools.partial(self._interrupt, _cancelled)
        timer = self._timer(parsed.timeout_us)
        try:
            self._with.watch.watch(self.responder, lambda: call_on(loop, gone))
            await self._with.health.wait()
            self._with.observer.admitted(self._record)
            with serving(self._record):
                await handler.run(parsed.call, self.responder, self._context)
            if not self.responder.closed:
                raise RuntimeError("the handler gave no final response")
        except BaseException as error:
            self.fail(error)
        finally:
            if timer is not None:
                timer.cancel()
            self._with.watch.unwatch(self.responder)
            if isinstance(self._reason, RequestCancelledError):
                self._with.log.log_info(f"{official_texts.CANCELLED} {self._context.request_id}")

    def _timer(self, timeout_us: int) -> asyncio.TimerHandle | None:
        if not timeout_us:
            return None
        late = functools.partial(_late, timeout_us)
        remaining = self._context.arrived_at + timeout_us / _MICROSECONDS - time.monotonic()
        return asyncio.get_running_loop().call_later(max(remaining, 0.0), self._interrupt, late)

    def _interrupt(self, make_reason: Callable[[], BackendError]) -> None:
        """Answer now, and end the work. On the event loop."""
        if self._task is None or self._task.done():
            return
        reason = make_reason()
        self._reason = self._reason or reason
        self.fail(reason)
        self._cancel()

    def _cancel(self) -> None:
        """End the work. Only once: a second cancellation would interrupt what cleans up after the first."""
        if not self._cancelling:
            self._cancelling = True
            self._cancel_again()

    def _cancel_again(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._task.get_loop().call_later(_CANCEL_AGAIN_SECONDS, self._cancel_again)

    def _explained(self, error: BaseException) -> BackendError:
        """What the client is told about ``error``."""
        try:
            if isinstance(error, BackendError):
                return error
            if isinstance(error, asyncio.CancelledError):
                return self._reason or UnavailableError("the request was interrupted; try again")
            return self._with.engine.explain(error) or self._internal()
        except BaseException:  # an error that cannot be looked at
            return self._internal()

    def _internal(self) -> InternalError:
        return InternalError(f"internal error, request id {self._context.request_id}; the server's log has the details")

    def _note(self, error: BaseException, answer: BackendError) -> None:
        """Say in the log how the request ended; a defect with its traceback."""
        try:
            start = f"[vllm_custom] request {self._context.request_id} failed: "
            if isinstance(answer, RequestCancelledError):
                self._with.log.log_info(f"{official_texts.CANCELLING} {self._context.request_id}")
            elif isinstance(answer, InternalError):
                self._with.log.log_error(start + "".join(traceback.format_exception(error)))
            else:
                self._with.log.log_info(f"{start}{answer}")
        except BaseException:  # noqa: S110  # a line in the log is worth no request
            pass


def _cancelled() -> BackendError:
    return RequestCancelledError("the request was cancelled")


def _late(timeout_us: int) -> BackendError:
    return DeadlineExceededError(f"timeout: the request did not finish within {timeout_us} microseconds of its arrival")
