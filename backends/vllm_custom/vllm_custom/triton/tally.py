"""What the service itself counts of its requests and responses, for Triton's metrics endpoint."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterable, Iterator

from vllm_custom.contract.metrics import (
    REQUEST_SECONDS,
    RESPONSE_PIECES,
    RESPONSES,
    SEQUENCES_IN_FLIGHT,
    SERVICE_METRICS,
)
from vllm_custom.engine.statistics import Sample

_ROWS = {family.name: family for family in SERVICE_METRICS}
_ENDS = _ROWS[REQUEST_SECONDS].buckets


class Tally:
    """Of one process. Thread-safe."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """``in_flight``: sequences under way, of all processes that serve the model."""
        self._in_flight = in_flight
        self._in_flight_before = -1
        self._lock = threading.Lock()
        self._buckets = [0] * (len(_ENDS) + 1)
        self._seconds = 0.0
        self._responses = 0
        self._pieces = 0

    def ended(self, seconds: float) -> None:
        """A request got its final response, so long after its arrival."""
        with self._lock:
            self._buckets[bisect.bisect_left(_ENDS, seconds)] += 1
            self._seconds += seconds

    def sent(self, pieces: int) -> None:
        """A response was sent, with so many pieces of its stream in one."""
        with self._lock:
            self._responses += 1
            self._pieces += pieces

    def gauges(self) -> Iterable[Sample]:
        """What has changed."""
        now = self._in_flight()
        if now == self._in_flight_before:
            return []
        self._in_flight_before = now
        return [_sample(SEQUENCES_IN_FLIGHT, "GAUGE", now)]

    def counters(self) -> Iterable[Sample]:
        """All."""
        with self._lock:
            sent = {RESPONSES: self._responses, RESPONSE_PIECES: self._pieces}
        return [_sample(name, "COUNTER", value) for name, value in sent.items()]

    def histograms(self) -> Iterator[Sample]:
        """All."""
        with self._lock:
            buckets, seconds = list(self._buckets), self._seconds
        total = 0
        for end, count in zip((*map(str, _ENDS), "+Inf"), buckets, strict=True):
            total += count
            yield _sample(REQUEST_SECONDS, "COUNTER", total, "_bucket", le=end)
        yield _sample(REQUEST_SECONDS, "COUNTER", seconds, "_sum")
        yield _sample(REQUEST_SECONDS, "COUNTER", total, "_count")


def _sample(name: str, kind: str, value: float, end: str = "", **labels: str) -> Sample:
    return Sample(name + end, kind, _ROWS[name].description, tuple(labels.items()), value)
