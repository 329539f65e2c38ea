"""Deliver responses in order, from threads, and merge what piles up.

Sending one response is a blocking exchange between the model's process and the server. While a request's last
response is under way, further deltas of that request are merged into the next one, so a stream gets one response
per token as long as the sender keeps up, and larger pieces when it does not. Requests that have sent nothing yet
go first.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vllm_custom.errors import BackendError, InternalError
from vllm_custom.observability import Log
from vllm_custom.responses import Delta
from vllm_custom.triton.responses import ResponseBuilder


def _ignore(pieces: int) -> None:
    """Count nothing."""


class ResponseStream:
    """The responses of one request. ``push``, ``finish`` and ``fail`` may be called from any thread; none blocks."""

    def __init__(
        self,
        pool: SenderPool,
        response_sender: Any,
        on_done: Callable[[BackendError | None], None],
        *,
        on_final: Callable[[], None] = lambda: None,
        request_id: str = "",
    ) -> None:
        """
        Args:
            pool: sends what is handed in.
            response_sender: of the request.
            on_done: called once, from a sender thread, after the final response, with its error.
            on_final: called once, from a sender thread, before the final response is sent.
            request_id: for the log, and for the error where a response cannot be sent.
        """
        self._pool = pool
        self._sender = response_sender
        self._on_done = on_done
        self._on_final = on_final
        self._request_id = request_id
        self._lock = threading.Lock()
        self._cancel_query_lock = threading.Lock()
        self._pending: deque[Sequence[Delta]] = deque()
        self._error: BackendError | None = None
        self._closed = False
        self._busy = False
        self._started = False
        self.additional_outputs: frozenset[str] = frozenset()
        # What the request ended with, where its answer is an error but not one of Triton's.
        self.failure: BackendError | None = None

    @property
    def closed(self) -> bool:
        """Whether the final response has been handed in."""
        return self._closed

    def is_cancelled(self) -> bool:
        """Ask Triton whether the client has gone. Blocks for one exchange with the server.

        Never asks once the final response is on its way: the server may have freed what the question is about.
        """
        with self._cancel_query_lock:
            return not self._closed and bool(self._sender.is_cancelled())

    def push(self, rows: Sequence[Delta]) -> None:
        """Queue a response: one delta per row of the request."""
        self._hand_in(rows, None, close=False)

    def finish(self, rows: Sequence[Delta]) -> None:
        """Queue the final response."""
        self._hand_in(rows, None, close=True)

    def fail(self, error: BackendError) -> None:
        """Queue an error as the final response, after what is queued already. Ignored once the stream is closed."""
        self._hand_in(None, error, close=True)

    def _hand_in(self, rows: Sequence[Delta] | None, error: BackendError | None, *, close: bool) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = close
            self._error = error
            if rows is not None:
                self._pending.append(rows)
            if self._busy:
                return
            self._busy = True
            first = not self._started
        self._pool.schedule(self, first=first)

    def _take(self, *, merge: bool) -> list[Sequence[Delta]]:
        """What is pending; only the oldest of it without ``merge``."""
        if not merge:
            return [self._pending.popleft()] if self._pending else []
        taken = list(self._pending)
        self._pending.clear()
        return taken

    def send_next(
        self, builder: ResponseBuilder, log: Log, *, merge: bool = True, note: Callable[[int], None] = _ignore
    ) -> bool:
        """Send what is pending, as one response (an error after it, as another). True if more is to be sent.

        ``note`` is told how many pieces the response has.
        """
        with self._lock:
            taken = self._take(merge=merge)
            closing = self._closed and not self._pending
            error = self._error if closing else None
            self._started = True
        if closing:
            self._prepare_final()
        try:
            if taken:
                rows = _merged(taken)
                response = builder.outputs([row.arrays(self.additional_outputs) for row in rows])
                self._sender.send(response, builder.final_flag if closing and error is None else 0)
                note(len(taken))
            if error is not None:
                self._sender.send(builder.error(error), builder.final_flag)
        except BaseException as problem:
            if not closing:
                self._prepare_final()
            closing = True
            error = problem if isinstance(problem, BackendError) else self._broken()
            self._send_final_error(builder, error)
            _say(log, f"[vllm_custom] request {self._request_id}: a response could not be sent: {problem!r}")
        if closing:
            _safely(log, lambda: self._on_done(error or self.failure))
            return False
        return self._has_more()

    def _broken(self) -> BackendError:
        return InternalError(f"the response could not be built or sent, request id {self._request_id}")

    def _prepare_final(self) -> None:
        """Nothing that is said here may keep the final response from being sent."""
        with contextlib.suppress(Exception):
            self._on_final()
        with self._lock:
            self._closed = True
        with self._cancel_query_lock:  # a question that is under way gets its answer before the final response goes out
            pass

    def _has_more(self) -> bool:
        with self._lock:
            self._busy = self._closed or bool(self._pending)
            return self._busy

    def _send_final_error(self, builder: ResponseBuilder, error: BackendError) -> None:
        """The request must get a final response whatever happened, or the client waits forever."""
        # It fails where the final flag has been sent, or the request is gone: then no client waits.
        with contextlib.suppress(Exception):
            self._sender.send(builder.error(error), builder.final_flag)


class SenderPool:
    """Threads that send; one stream is served by one thread at a time, so its responses keep their order."""

    def __init__(
        self,
        builder: ResponseBuilder,
        log: Log,
        threads: int,
        *,
        merge: bool = True,
        note: Callable[[int], None] = _ignore,
    ) -> None:
        """
        Args:
            builder: makes the responses.
            log: of Triton.
            threads: how many send.
            merge: send the deltas of one stream that wait as one response; else each as its own.
            note: is told of each response how many pieces it has.
        """
        self._builder = builder
        self._log = log
        self._merge = merge
        self._note = note
        self._first: deque[ResponseStream] = deque()
        self._later: deque[ResponseStream] = deque()
        # One True for each stream in the two, False to end a thread. C code throughout: the event loop never waits.
        self._ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"vllm_custom_sender_{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def schedule(self, stream: ResponseStream, *, first: bool) -> None:
        """Let a thread call ``stream.send_next`` soon: ``first`` ones before all others, else in the order of calls."""
        (self._first if first else self._later).append(stream)
        self._ready.put(True)

    def close(self) -> None:
        """Send everything that is queued, then end the threads."""
        for _ in self._threads:
            self._ready.put(False)
        for thread in self._threads:
            thread.join()
        while self._first or self._later:  # what a thread put back after the other had been told to end
            self._serve_one()

    def _run(self) -> None:
        while self._ready.get():
            self._serve_one()

    def _serve_one(self) -> None:
        try:
            stream = self._first.popleft()
        except IndexError:
            stream = self._later.popleft()
        if stream.send_next(self._builder, self._log, merge=self._merge, note=self._note):
            self.schedule(stream, first=False)


def _merged(taken: list[Sequence[Delta]]) -> Sequence[Delta]:
    """Several responses as one. Outside the stream's lock: with many sequences it takes a while."""
    rows, *later = taken
    for following in later:
        for mine, theirs in zip(rows, following, strict=True):
            mine.add(theirs)
    return rows


def _safely(log: Log, function: Callable[[], object]) -> None:
    """Call ``function``; a thread that sends must outlive whatever it raises."""
    try:
        function()
    except Exception as problem:
        _say(log, f"[vllm_custom] after the final response: {problem!r}")


def _say(log: Log, line: str) -> None:
    with contextlib.suppress(Exception):  # a line in the log is worth no request
        log.log_error(line)
