"""What the HTTP server counts, for Prometheus; of several processes together where they share a folder for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from vllm_custom_frontend import metric_files

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# prometheus_client's own: where it is set, all values are in files below it.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


_collector: Any = MultiProcessCollector  # it has no types
metric_files.install()


class Metrics:
    """Counters of requests."""

    def __init__(self, *, several: bool = False, hidden: Callable[[Any], bool] = lambda _: False) -> None:
        """
        Args:
            several: whether the values of several processes are in the folder that FOLDER_VARIABLE names.
            hidden: which metric families of those are not shown.
        """
        self._several = several
        self._hidden = hidden
        self.registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter("vllm_custom_frontend_requests", "Completed requests.", labels, registry=self.registry)
        self.seconds = Histogram(
            "vllm_custom_frontend_request_seconds",
            "Time from a request's arrival to the last byte of its response, in seconds.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open = Gauge(
            "vllm_custom_frontend_open_requests",
            "Requests in progress.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.refused = Counter(
            "vllm_custom_frontend_refused_connections",
            "Connections that were refused before a request was whole: its headers were too large or too late.",
            ("status",),
            registry=self.registry,
        )
        self.disconnects = Counter(
            "vllm_custom_frontend_disconnects",
            "Clients that disconnected before the end of their response.",
            registry=self.registry,
        )

    def text(self, collectors: Iterable[Any] = ()) -> bytes:
        """The exposition format, with what ``collectors`` have to say besides."""
        shown = CollectorRegistry()
        if self._several:
            shown.register(_Shown(_collector(None), self._hidden))
        else:
            shown.register(self.registry)
        for collector in collectors:
            shown.register(collector)
        return bytes(generate_latest(shown))


class _Shown:
    """Some of the families of a collector."""

    def __init__(self, collector: Any, hidden: Callable[[Any], bool]) -> None:
        self._collector = collector
        self._hidden = hidden

    def collect(self) -> Iterator[Any]:
        return (family for family in self._collector.collect() if not self._hidden(family))
