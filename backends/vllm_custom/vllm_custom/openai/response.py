"""Pieces of an HTTP response as Triton outputs, errors included."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.names import OPENAI_HEADERS, OPENAI_RESPONSE, OPENAI_STATUS
from vllm_custom.errors import (
    BackendError,
    DeadlineExceededError,
    EngineDiedError,
    EngineDownError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    RequestCancelledError,
    UnavailableError,
    UnsupportedError,
)
from vllm_custom.responses import Delta, Responder

EVENT_STREAM = "text/event-stream"
_FIRST_ERROR, _FIRST_DEFECT = 400, 500
_UNAVAILABLE, _RETRY_AFTER_SECONDS = 503, "1"
# For the frontend, which else takes a model that gives a time for one that has too many requests.
_ENGINE_STATE, _RESTARTING, _DEAD = "x-engine-state", "restarting", "dead"

# OpenAI's error types as vLLM names them. 499 is what proxies note for a client that has gone; no client reads it.
_STATUS: tuple[tuple[type[BackendError], int, str], ...] = (
    (InvalidRequestError, 400, "BadRequestError"),
    (NotFoundError, 404, "NotFoundError"),
    (UnsupportedError, 501, "NotImplementedError"),
    (EngineDiedError, 500, "InternalServerError"),
    (DeadlineExceededError, 504, "TimeoutError"),
    (UnavailableError, 503, "ServiceUnavailableError"),
    (RequestCancelledError, 499, "CancelledError"),
    (BackendError, 500, "InternalServerError"),
)


@dataclass
class ResponseChunk:
    """What is new of an HTTP response: bytes of its body, and with the first piece status and content type."""

    body: list[bytes]
    status: int = 0
    headers: dict[str, str] | None = None

    def add(self, later: ResponseChunk) -> None:
        """Append what came later: more events of a stream travel together."""
        self.body.extend(later.body)
        self.status = self.status or later.status
        self.headers = later.headers if self.headers is None else self.headers

    def arrays(self, additional: frozenset[str]) -> dict[str, npt.NDArray[Any]]:
        """The outputs, each with one element; status and headers with the first piece only.

        Each output of a response costs as much as the next, so a stream's events travel without the other two.
        """
        found: dict[str, npt.NDArray[Any]] = {OPENAI_RESPONSE: np.array([b"".join(self.body)], dtype=np.object_)}
        if self.headers is not None:
            found[OPENAI_STATUS] = np.array([self.status], dtype=np.int32)
            found[OPENAI_HEADERS] = np.array([json.dumps(self.headers).encode()], dtype=np.object_)
        return found


class OpenAIResponder(Responder):
    """The responses of one call. Errors go out in OpenAI's form with their status, not as Triton errors.

    A gRPC stream carries the message of a Triton error without its code, so a frontend could not tell them apart.
    """

    def __init__(self, responder: Responder, *, decoupled: bool = True) -> None:
        """
        Args:
            responder: where the responses go.
            decoupled: whether Triton takes several responses; else the whole body goes into one.
        """
        self._responder = responder
        self._decoupled = decoupled
        self._status = 0
        self._events = False
        self._head: dict[str, str] | None = None
        self._buffered: list[bytes] = []
        self.additional_outputs: frozenset[str] = frozenset()

    @property
    def closed(self) -> bool:
        return self._responder.closed

    @property
    def failure(self) -> BackendError | None:
        return self._responder.failure

    @failure.setter
    def failure(self, error: BackendError | None) -> None:
        self._responder.failure = error

    def is_cancelled(self) -> bool:
        return self._responder.is_cancelled()

    def push(self, rows: Sequence[Delta]) -> None:
        self._responder.push(rows)

    def finish(self, rows: Sequence[Delta]) -> None:
        self._responder.finish(rows)

    def start(self, status: int, headers: dict[str, str]) -> None:
        """Status and headers; they travel with the first piece of the body."""
        if status >= _FIRST_ERROR and self.failure is None:
            self.failure = _failure(status)
        self._status = status
        self._events = headers.get("content-type", "").startswith(EVENT_STREAM)
        self._head = headers

    def body(self, chunk: bytes, *, more: bool) -> None:
        """The next bytes of the body; ``more`` is false for the last."""
        if more and not (chunk and self._decoupled):
            self._buffered.append(chunk)
            return
        piece = ResponseChunk([*self._buffered, chunk])
        self._buffered.clear()
        if self._head is not None:
            piece.status, piece.headers, self._head = self._status, self._head, None
        self.push([piece]) if more else self.finish([piece])

    def fail(self, error: BackendError) -> None:
        """The error as the whole response, or as the last event of a stream that has begun. Ignored after the end."""
        if self.closed:
            return
        self.failure = error
        status, document = error_document(error)
        if not self._status or self._head is not None:  # nothing is out yet
            self._buffered.clear()
            self.start(status, _error_headers(status, error))
            self.body(document, more=False)
        elif self._events:
            self.body(b"data: " + document + b"\n\ndata: [DONE]\n\n", more=False)
        else:  # part of a JSON document is out: what follows could only make it worse
            self.body(b"", more=False)


class HttpReply:
    """An answer to HTTP while it is sent. Errors go out as :class:`OpenAIResponder` sends them.

    Attributes:
        ended: whether all of it has been sent.
        failure: what the request ended with, where its answer is an error, or where the client has gone.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
        before_end: Callable[[], None],
    ) -> None:
        """
        Args:
            receive: of the ASGI server, for what comes behind the body.
            send: of the ASGI server.
            before_end: called before the last part: a client that waits for it may send the next request at once.
        """
        self._receive = receive
        self._send = send
        self._before_end = before_end
        self._status = 0
        self._events = False
        self.ended = False
        self.failure: BackendError | None = None

    async def receive(self) -> dict[str, Any]:
        """Wait for the client to go."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.ended:
            self.failure = RequestCancelledError("the client has gone")
        return message

    @property
    def gone(self) -> bool:
        """Whether the client has gone before the end."""
        return isinstance(self.failure, RequestCancelledError)

    async def send(self, message: dict[str, Any]) -> None:
        """Pass on what the application sends."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._events = any(
                name.lower() == b"content-type" and value.startswith(EVENT_STREAM.encode())
                for name, value in message.get("headers", ())
            )
            if self._status >= _FIRST_ERROR and self.failure is None:
                self.failure = _failure(self._status)
        elif not message.get("more_body", False):
            self.ended = True
            self._before_end()
        await self._send(message)

    async def answer(self, status: int, document: bytes, error: BackendError | None = None) -> None:
        """Send JSON as the whole answer, about ``error`` where it is one of ours."""
        headers = {**_error_headers(status, error), "content-length": str(len(document))}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": document})

    async def fail(self, error: BackendError) -> None:
        """Send the error, or as the last event where a stream has begun. Does nothing after the end."""
        if self.ended or self.gone:
            return
        self.failure = error
        status, document = error_document(error)
        if not self._status:
            await self.answer(status, document, error)
        else:  # of a JSON document, what follows could only make it worse
            last = b"data: " + document + b"\n\ndata: [DONE]\n\n" if self._events else b""
            await self.send({"type": "http.response.body", "body": last})


def _failure(status: int) -> BackendError:
    """What an error of vLLM's own app counts as."""
    other = InvalidRequestError if status < _FIRST_DEFECT else InternalError
    return next((cls for cls, known, _ in reversed(_STATUS) if known == status), other)(f"HTTP status {status}")


def _error_headers(status: int, error: BackendError | None) -> dict[str, str]:
    found = {"content-type": "application/json"}
    if isinstance(error, EngineDownError):
        seconds = error.retry_after_seconds
        found[_ENGINE_STATE] = _RESTARTING if seconds else _DEAD
        return found | ({"retry-after": str(seconds)} if seconds else {})
    return found | ({"retry-after": _RETRY_AFTER_SECONDS} if status == _UNAVAILABLE else {})


def error_document(error: BackendError) -> tuple[int, bytes]:
    """HTTP status and OpenAI's JSON for ``error``."""
    status, kind = next((status, kind) for cls, status, kind in _STATUS if isinstance(error, cls))
    content = {"error": {"message": str(error), "type": kind, "param": error.param, "code": status}}
    return status, json.dumps(content, ensure_ascii=False).encode()
