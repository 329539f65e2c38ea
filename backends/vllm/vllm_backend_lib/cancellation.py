"""Notices that a client has gone, and cancels the task that works for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from vllm_backend_lib.interfaces import Logger
from vllm_backend_lib.kernel import official_texts

POLL_SECONDS = 0.1

State = dict[str, Any]


class CancellationWatcher:
    """Asks Triton about every watched request ten times a second, on a thread of its own.

    Asking is a round trip to the server process: doing it per token, or on the event loop, would cost more the more
    requests there are.
    """

    def __init__(self, logger: Logger, poll_seconds: float = POLL_SECONDS) -> None:
        self._logger = logger
        self._poll_seconds = poll_seconds
        self._watched: dict[int, tuple[State, asyncio.Task[Any]]] = {}
        self._lock = threading.Lock()
        self._busy = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vllm-cancellation")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._busy.set()
        self._thread.join()

    def watch(self, state: State, task: asyncio.Task[Any]) -> None:
        """Cancels `task`, once, when the sender in `state` reports that its client has gone."""
        state["watched"] = True
        with self._lock:
            self._watched[id(state)] = (state, task)
            self._busy.set()

    def forget(self, state: State) -> None:
        """Stops watching. After this returns the sender is not asked any more: once it has sent its final response
        Triton frees what a question would look at."""
        with self._lock:
            self._watched.pop(id(state), None)
            if not self._watched and not self._stopping.is_set():
                self._busy.clear()

    def _run(self) -> None:
        while self._busy.wait() and not self._stopping.wait(self._poll_seconds):
            for key in list(self._watched):
                self._ask(key)

    def _ask(self, key: int) -> None:
        with self._lock:
            if key not in self._watched:
                return
            state, task = self._watched[key]
            try:
                state["is_cancelled"] = bool(state["response_sender"].is_cancelled())
            except Exception as error:  # the thread serves all requests and must live on
                self._logger.log_error(f"[vllm] cannot ask whether a request was cancelled: {error}")
                self._watched.pop(key)
                return
            if state["is_cancelled"]:
                self._watched.pop(key)
                self._logger.log_info(official_texts.CANCELLING)
                _cancel(task)


def _cancel(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has closed: there is nothing left to cancel
        task.get_loop().call_soon_threadsafe(task.cancel)
