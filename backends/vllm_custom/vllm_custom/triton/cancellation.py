"""Notice clients that have gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from vllm_custom.responses import Responder

_INTERVAL_SECONDS = 0.1
# Each poll is a blocking exchange with the server; more than this many a second would slow the responses.
_MAX_POLLS_PER_SECOND = 1000


class CancellationWatcher:
    """Asks Triton, from one thread, about every open request about ten times a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[Responder, Callable[[], None]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vllm_custom_cancellation", daemon=True)
        self._thread.start()

    def watch(self, stream: Responder, on_cancel: Callable[[], None]) -> None:
        """Call ``on_cancel`` once, from the watcher's thread, when the client has gone."""
        with self._lock:
            self._watched[stream] = on_cancel

    def unwatch(self, stream: Responder) -> None:
        """The request is finished."""
        with self._lock:
            self._watched.pop(stream, None)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = _INTERVAL_SECONDS
        while not self._stop.wait(pause):
            began = time.monotonic()
            with self._lock:
                streams = list(self._watched)
            for stream in streams:
                self._poll(stream)
            enough = len(streams) / _MAX_POLLS_PER_SECOND
            pause = max(_INTERVAL_SECONDS, enough) - min(time.monotonic() - began, _INTERVAL_SECONDS)

    def _poll(self, stream: Responder) -> None:
        try:
            cancelled = stream.is_cancelled()
        except Exception:  # the request ended between the question and the answer
            return
        if cancelled:
            with self._lock:
                on_cancel = self._watched.pop(stream, None)
            if on_cancel is not None:
                on_cancel()
