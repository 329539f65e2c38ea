"""The response path: every response of every request goes through one queue and one thread, in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
from collections.abc import Callable
from typing import Any

from vllm_backend_lib.cancellation import CancellationWatcher
from vllm_backend_lib.interfaces import Logger, ResponseSender
from vllm_backend_lib.kernel import errors
from vllm_backend_lib.responses import NamedArrays

MAX_QUEUED_CHUNKS = 1
FINAL = 1  # TRITONSERVER_RESPONSE_COMPLETE_FINAL of Triton's C interface

QueueItem = tuple[dict[str, Any], Any, int]
MakeResponse = Callable[[NamedArrays | errors.BackendError], Any]
ResponseQueue = queue.SimpleQueue[QueueItem | None]


class Reply:
    """The responses of one request: any number of chunks, then exactly one final response."""

    def __init__(
        self,
        sender: ResponseSender,
        responses: ResponseQueue,
        watcher: CancellationWatcher,
        make_response: MakeResponse,
    ) -> None:
        self._responses = responses
        self._make_response = make_response
        self._watcher = watcher
        self._queued = 0
        self._sent = asyncio.Event()
        self.state: dict[str, Any] = {
            "response_sender": sender,
            "is_cancelled": False,
            "last_response_generated": False,
            "sent": 0,
            "on_sent": None,
        }

    @property
    def finished(self) -> bool:
        """Whether the final response is on its way."""
        return bool(self.state["last_response_generated"])

    async def drain(self) -> None:
        """Waits while chunks of this request are waiting to be sent.

        One thread sends a few thousand responses per second. Where the engine makes more, its deltas wait in vLLM,
        which merges those of one request: fewer and longer chunks instead of a queue that grows.
        """
        loop = asyncio.get_running_loop()
        while self._waiting_chunks >= MAX_QUEUED_CHUNKS:
            self._sent.clear()
            self.state["on_sent"] = functools.partial(loop.call_soon_threadsafe, self._sent.set)
            if self._waiting_chunks >= MAX_QUEUED_CHUNKS:  # the last one may have been sent in between
                await self._sent.wait()
            self.state["on_sent"] = None

    @property
    def _waiting_chunks(self) -> int:
        return self._queued - int(self.state["sent"])

    def send(self, arrays: NamedArrays, *, final: bool) -> None:
        """Queues a response with these output tensors."""
        self._put(self._make_response(arrays), final=final)

    def fail(self, error: errors.BackendError) -> None:
        """Queues an error as the final response, behind the chunks that were queued before."""
        if self.finished:
            return
        try:
            response = self._make_response(error)
        except Exception:  # whatever cannot be said, the client must not wait forever
            response = self._make_response(errors.InternalError("internal error"))
        self._put(response, final=True)

    def _put(self, response: Any, *, final: bool) -> None:
        if self.finished:
            return
        if final:
            self._watcher.forget(self.state)
            self.state["last_response_generated"] = True
        self._queued += 1
        self._responses.put((self.state, response, FINAL if final else 0))


class ReplyThread:
    """Takes responses from the queue and hands them to Triton, so that the event loop never waits for that."""

    def __init__(
        self, responses: ResponseQueue, on_final: Callable[[], None], logger: Logger, make_response: MakeResponse
    ) -> None:
        self._make_response = make_response
        self._responses = responses
        self._on_final = on_final
        self._logger = logger
        self.thread = threading.Thread(target=self._run, name="vllm-responses")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Sends what is queued, then ends the thread."""
        self._responses.put(None)
        self.thread.join()

    def _run(self) -> None:
        while (item := self._responses.get()) is not None:
            state, response, flags = item
            try:
                self._send(state, response, flags)
            except Exception as error:  # the thread serves all requests and must live on
                self._logger.log_error(f"[vllm] cannot send a response: {error!r}")
                self._end(state, flags)
            finally:
                self._count(state, flags)

    @staticmethod
    def _send(state: dict[str, Any], response: Any, flags: int) -> None:
        sender = state["response_sender"]
        sender.send(response, flags)
        # A subclass may queue responses of requests that the watcher does not know.
        if not state.get("watched") and not state["last_response_generated"]:
            state["is_cancelled"] = sender.is_cancelled()

    def _end(self, state: dict[str, Any], flags: int) -> None:
        """In place of a final response that could not be sent: the client may wait for one."""
        if flags == FINAL:
            with contextlib.suppress(Exception):  # it was sent after all, or the request has gone
                state["response_sender"].send(
                    self._make_response(errors.InternalError("a response could not be sent")), FINAL
                )

    def _count(self, state: dict[str, Any], flags: int) -> None:
        state["sent"] = state.get("sent", 0) + 1
        on_sent = state.get("on_sent")
        if on_sent is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nothing waits any more
                on_sent()
        if flags == FINAL:
            self._on_final()
