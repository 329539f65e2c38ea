"""Log lines that cost the caller a place in a queue, and can never fail it."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Mapping
from typing import Any, Protocol, cast

from vllm_custom.kernel.text import safe_text

_MAX_LINES = 1000
# A traceback and more.
_MAX_LINE_BYTES = 20_000
_MAX_VALUE_BYTES = 500
_REQUEST = "log_request"
_DISCONNECT_GRACE_SECONDS = 5.0


class Log(Protocol):
    """``pb_utils.Logger``, as far as it is used."""

    def log_info(self, message: str) -> None: ...
    def log_warn(self, message: str) -> None: ...
    def log_error(self, message: str) -> None: ...


class QueuedLog:
    """Passes lines on to ``pb_utils.Logger`` from a thread of its own.

    Triton's logger looks up the caller's source line in Python and exchanges a message with the server, for each line
    and at any log level: too much for the event loop while bad requests pour in. Lines beyond those that wait are
    dropped and counted; the log is told how many, once it has caught up.

    All methods may be called from any thread. None raises, whatever the message holds, and only ``close`` blocks.
    """

    def __init__(self, logger: Any, *, max_lines: int = _MAX_LINES) -> None:
        """
        Args:
            logger: ``pb_utils.Logger``.
            max_lines: how many may wait.
        """
        self._logger = logger
        self._max_lines = max_lines
        self._dropped = 0
        self._told = 0
        # Level and text of a line; None ends the thread.
        self._lines: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="vllm_custom_log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines have been dropped so far."""
        return self._dropped

    def log_verbose(self, message: str) -> None:
        """A line that is shown where the server logs verbosely."""
        self._put("log_verbose", message)

    def log_info(self, message: str) -> None:
        """A line of what goes as it should, failed requests of clients included."""
        self._put("log_info", message)

    def log_warn(self, message: str) -> None:
        """A line of what an operator may want to look at."""
        self._put("log_warn", message)

    def log_error(self, message: str) -> None:
        """A line of what an operator has to look at."""
        self._put("log_error", message)

    @property
    def takes_requests(self) -> bool:
        """Whether the logger has a line for each request (LOG_FORMAT: json)."""
        return hasattr(self._logger, "log_request")

    def log_request(self, fields: Mapping[str, Any]) -> None:
        """The line of a request that has ended."""
        # A client has a say in some: cleaned one by one, as what a text is replaced by must not break the JSON.
        clean = {
            name: safe_text(value, _MAX_VALUE_BYTES) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        self._put(_REQUEST, json.dumps(clean, ensure_ascii=False))

    def close(self) -> None:
        """Write what waits, for some seconds at most, and end the thread. Later lines are written at once."""
        self._lines.put(None)
        self._thread.join(_DISCONNECT_GRACE_SECONDS)

    def _put(self, level: str, message: object) -> None:
        # What waits is bounded in length as well. Of an ordinary line all work is the thread's.
        is_short = type(message) is str and (len(message) <= _MAX_LINE_BYTES or level == _REQUEST)
        text = cast(str, message) if is_short else safe_text(message, _MAX_LINE_BYTES)
        if not self._thread.is_alive():
            self._write(level, text)
        elif self._lines.qsize() >= self._max_lines:
            self._dropped += 1
        else:
            self._lines.put((level, text))

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(*line)
            if self._dropped > self._told and self._lines.empty():
                self._tell_dropped()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        count, self._told = self._dropped - self._told, self._dropped
        if count:
            self._write("log_warn", f"[vllm_custom] {count} log lines were dropped: there were too many at a time")

    def _write(self, level: str, text: str) -> None:
        with contextlib.suppress(Exception):
            getattr(self._logger, level)(text if level == _REQUEST else safe_text(text, _MAX_LINE_BYTES))
