"""The life of a request that came by HTTP, past Triton: admission, deadline, error, and exactly one answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_custom.contract.routes import CANCEL_PATH, is_path
from vllm_custom.engine import Engine
from vllm_custom.errors import (
    BackendError,
    DeadlineExceededError,
    InternalError,
    RequestCancelledError,
    UnavailableError,
)
from vllm_custom.observability import RequestRecord, serving
from vllm_custom.openai import HttpReply, OpenAICall, read_openai_call
from vllm_custom.openai.asgi import LateError, Receive, Send
from vllm_custom.serving.admission import Ticket
from vllm_custom.serving.common import Common

# What is longer is read in a thread, off the event loop.
_SHORT_BYTES = 16 * 1024
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class HttpRequest:
    """A request as the HTTP server has read it.

    Attributes:
        method: GET or POST.
        path: the route, with a query string where there is one.
        headers: for the application; names in lower case.
        body: UTF-8; None for none.
        request_id: the client's own, or a random one; printable and short.
        timeout_seconds: 0 for none.
        key: the name of the key that the client has shown; empty for none.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    request_id: str
    timeout_seconds: float = 0.0
    key: str = ""

    @property
    def looks_up(self) -> bool:
        """Whether it gives the engine nothing to do, so that it is served at MAX_INFLIGHT_REQUESTS, too."""
        return self.method == "GET" or is_path(self.path.partition("?")[0], CANCEL_PATH)


class HttpRunner:
    """Serves the requests of one model. For its event loop."""

    def __init__(self, common: Common, engine: Engine, is_leaving: Callable[[], bool]) -> None:
        """``is_leaving``: whether the model is being unloaded."""
        self._common = common
        self._engine = engine
        self._is_leaving = is_leaving
        self.running = 0

    async def serve(self, request: HttpRequest, receive: Receive, send: Send) -> bool:
        """Answer it, whatever happens. Whether the client stayed to the end.

        Args:
            request: what is asked.
            receive: of the server, for what comes behind the body.
            send: of the server.
        """
        ticket: Ticket | None = None

        def leave() -> None:
            if ticket is not None:
                ticket.leave()

        reply = HttpReply(receive, send, leave)
        observer, counted = self._common.observer, not request.looks_up
        record = observer.arrived(request.request_id, key=request.key) if counted else None
        observer.begin(record, request.headers)
        self.running += 1
        try:
            ticket = self._admit(request)
            with serving(record):
                await self._answer(request, ticket, reply, record)
            if not (reply.ended or reply.gone):
                raise RuntimeError("the application gave no complete response")
        except asyncio.CancelledError:
            reply.failure = RequestCancelledError("the request was cancelled")
            raise
        except BaseException as error:
            await self._fail(request, reply, error)
        finally:
            leave()
            self.running -= 1
            if counted:
                self._common.observe(reply.failure)
            observer.ended(record, reply.failure)
        return not reply.gone

    def _admit(self, request: HttpRequest) -> Ticket:
        ticket = self._common.admission.enter(counted=not request.looks_up)
        try:
            if self._is_leaving():
                raise UnavailableError(f"model {self._common.settings.model_name} is being unloaded")
            self._common.health.check()
        except BaseException:
            ticket.leave()
            raise
        return ticket

    async def _answer(
        self, request: HttpRequest, ticket: Ticket, reply: HttpReply, record: RequestRecord | None
    ) -> None:
        arrived = time.monotonic()
        if not request.looks_up:  # several may be read at a time
            ticket.grow(1)
        if len(request.body or b"") > _SHORT_BYTES:
            call = await asyncio.to_thread(self._read, request)
        else:
            call = self._read(request)
        ticket.grow(call.sequences)
        if call.background:  # its work takes a place of its own
            ticket.leave()
        self._common.observer.admitted(record)
        left = request.timeout_seconds - (time.monotonic() - arrived) if request.timeout_seconds else None
        try:
            await self._common.openai.serve_http(call, reply, request.request_id, left)
        except LateError as error:
            limit = int(request.timeout_seconds * _MICROSECONDS)
            raise DeadlineExceededError(
                f"timeout: the request did not finish within {limit} microseconds of its arrival"
            ) from error

    def _read(self, request: HttpRequest) -> OpenAICall:
        body = None if request.body is None else request.body.decode()
        call = read_openai_call(request.method, request.path, request.headers, body, self._common.rules)
        self._common.rules.check("n", call.sequences, "MAX_PROMPTS", "sequences of all prompts together")
        return call

    async def _fail(self, request: HttpRequest, reply: HttpReply, error: BaseException) -> None:
        internal = InternalError(f"internal error, request id {request.request_id}; the server's log has the details")
        try:
            answer = error if isinstance(error, BackendError) else self._engine.explain(error) or internal
        except Exception:  # an error that cannot be looked at
            answer = internal
        for attempt in (answer, internal):
            with contextlib.suppress(Exception):  # an error that cannot even be written down; the next one can
                await reply.fail(attempt)
                break
        self._note(request.request_id, error, answer)

    def _note(self, request_id: str, error: BaseException, answer: BackendError) -> None:
        start = f"[vllm_custom] request {request_id} failed: "
        if isinstance(answer, InternalError):
            self._common.log.log_error(start + "".join(traceback.format_exception(error)))
        else:
            self._common.log.log_info(f"{start}{answer}")
