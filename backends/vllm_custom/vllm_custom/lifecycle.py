"""The life of a request: its id, how many there may be, and when its time is over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from vllm_custom.errors import DeadlineExceededError, UnavailableError

_MICROSECONDS = 1_000_000
_MAX_ID_CHARACTERS = 128


@dataclass(frozen=True)
class Arrival:
    """Who a request is, since when it has been here (seconds of the monotonic clock), and what traces it."""

    request_id: str
    at: float = field(default_factory=time.monotonic)
    trace_headers: Mapping[str, str] | None = None

    @classmethod
    def of(cls, request: Any, random_id: Callable[[], str]) -> Arrival:
        """``request`` is a ``pb_utils.InferenceRequest``; without an id of its own it gets a random one."""
        return cls(_one_line(request.request_id()) or random_id())

    def traced(self, headers: Mapping[str, str] | None) -> Arrival:
        """The same with W3C Trace Context for vLLM's spans."""
        return replace(self, trace_headers=headers)


def _one_line(text: str) -> str:
    """A client's id as it may stand in a log: printable, and not endless."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_ID_CHARACTERS])


def shortest(*timeouts_us: int) -> int:
    """The shortest of several timeouts in microseconds, of which 0 and less mean none; 0 if there is none."""
    return min((timeout for timeout in timeouts_us if timeout > 0), default=0)


class Admission:
    """Counts the requests under way and refuses those beyond a limit. Safe from any thread."""

    def __init__(self, limit: int) -> None:
        """``limit``: MAX_INFLIGHT_REQUESTS; 0 is no limit."""
        self._limit = limit
        self._lock = threading.Lock()
        self._inside = 0

    def enter(self) -> None:
        """Count a request, which has to :meth:`leave`.

        Raises:
            UnavailableError: there are too many; this one is not counted.
        """
        with self._lock:
            if self._limit and self._inside >= self._limit:
                raise UnavailableError(
                    f"too many requests: {self._inside} are under way and MAX_INFLIGHT_REQUESTS is {self._limit}; "
                    "try again later"
                )
            self._inside += 1

    def leave(self) -> None:
        """A counted request has its final response."""
        with self._lock:
            self._inside -= 1


class Deadline:
    """Cancels the task that enters it when the request's time is over, wherever that task waits by then."""

    def __init__(self, arrival: Arrival, timeout_us: int) -> None:
        """``timeout_us``: microseconds from the arrival; 0 is none."""
        self._arrival = arrival
        self._timeout_us = timeout_us
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        if self._timeout_us and task is not None:
            remaining = self._arrival.at + self._timeout_us / _MICROSECONDS - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(remaining, 0.0), self._expire, task)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def error(self) -> DeadlineExceededError:
        """What the client is told."""
        return DeadlineExceededError(
            f"timeout: the request did not finish within {self._timeout_us} microseconds of its arrival"
        )

    def _expire(self, task: asyncio.Task[Any]) -> None:
        self.expired = True
        task.cancel()
