"""Report what the engine and the service count to Triton's metrics endpoint, at intervals.

Triton takes one observation of a histogram at a time, and vLLM makes one for each token. So a histogram is reported as
the counters that it consists of, each by what it has grown since the last report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from vllm_custom.engine.statistics import Labels, Sample
from vllm_custom.kernel.metrics import Family, MetricReporter

_SECONDS = 0.25
# Histograms have hundreds of series, each of which is an exchange with the server where it has grown: so many times
# less often.
_HISTOGRAMS_EVERY = 12
# Of one gauge; then its family begins anew.
_MOST_SERIES = 64


class Source(Protocol):
    """What is reported. Thread-safe."""

    def gauges(self) -> Iterable[Sample]:
        """Those that are to be set now."""

    def counters(self) -> Iterable[Sample]:
        """All."""

    def histograms(self) -> Iterable[Sample]:
        """All."""


class EngineMetrics:
    """Reports its sources on threads of its own."""

    def __init__(
        self, pb_utils: Any, labels: Mapping[str, str], sources: Iterable[Source], log_error: Callable[[str], None]
    ) -> None:
        """``labels``: model and version."""
        self._sources = tuple(sources)
        self._reporter = MetricReporter(
            pb_utils,
            (),
            labels,
            log_error,
            what="[vllm_custom] metrics of vLLM",
            thread="vllm_custom_engine_metrics",
        )
        self._reported: dict[tuple[str, Labels], float] = {}
        self._series: dict[str, set[Labels]] = {}
        self._end = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="vllm_custom_engine_clock", daemon=True)
        self._clock.start()

    def close(self) -> None:
        """Report what there is, and end the threads."""
        self._end.set()
        self._clock.join()
        self._reporter.submit(self._report_often)
        self._reporter.submit(self._report_histograms)
        self._reporter.close()

    def _tick(self) -> None:
        ticks = 0
        while not self._end.is_set():
            # One at a time: a server that answers slowly gets fewer.
            self._reporter.submit(self._report_often).result()
            if ticks % _HISTOGRAMS_EVERY == 0:
                self._reporter.submit(self._report_histograms).result()
            ticks += 1
            self._end.wait(_SECONDS)

    def _report_often(self) -> None:
        for source in self._sources:
            for sample in source.gauges():
                if self._may_report(sample):
                    self._metric(sample).set(sample.value)
            self._add(source.counters())

    def _report_histograms(self) -> None:
        for source in self._sources:
            self._add(source.histograms())

    def _add(self, samples: Iterable[Sample]) -> None:
        """Report by how much each has grown."""
        for sample in samples:
            key = (sample.family, sample.labels)
            if key not in self._reported:
                self._metric(sample)  # it is shown from the start, as 0
            grown = sample.value - self._reported.setdefault(key, 0.0)
            if grown > 0:
                self._metric(sample).increment(grown)
                self._reported[key] = sample.value

    def _metric(self, sample: Sample) -> Any:
        self._reporter.declare(Family(sample.family, sample.kind, sample.description))
        return self._reporter.metric(sample.family, **dict(sample.labels))

    def _may_report(self, sample: Sample) -> bool:
        """Triton keeps each series of a gauge as long as the family, and labels of vLLM's may change all the time.

        Whether this one can be reported: not if there are many, and other instances have them too.
        """
        series = self._series.setdefault(sample.family, set())
        if len(series) >= _MOST_SERIES and sample.labels not in series:
            if not self._reporter.renew(sample.family):
                return False
            series.clear()
        series.add(sample.labels)
        return True
