"""vLLM's statistics as Triton metrics, under the official names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import triton_python_backend_utils as pb_utils
from vllm.v1.metrics.loggers import StatLoggerBase

from vllm_backend_lib.interfaces import Logger
from vllm_backend_lib.kernel import metrics
from vllm_backend_lib.metric_families import families, observations


class StatLoggerFactory:
    """What vLLM calls once per engine core to get a stat logger; `finalize` ends all that it made."""

    def __init__(self, labels: dict[str, str], logger: Logger) -> None:
        self._labels = labels
        self._logger = logger
        self._made: list[StatLogger] = []

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> StatLogger:
        made = StatLogger(self._labels, vllm_config, engine_index, self._logger)
        self._made.append(made)
        return made

    def finalize(self) -> None:
        """Reports what is left and ends the threads."""
        while self._made:
            self._made.pop().finalize()


class StatLogger(StatLoggerBase):  # type: ignore[misc]
    """Passes vLLM's statistics on to Triton, on a thread of its own."""

    def __init__(self, labels: dict[str, str], vllm_config: Any, engine_index: int, logger: Logger) -> None:
        reported = families(vllm_config.model_config.max_model_len)
        self._counters = {family.name for family in reported if not family.buckets}
        self._reporter = metrics.MetricReporter(
            pb_utils, reported, labels, logger.log_error, what="[vllm] metrics", thread="vllm-metrics"
        )

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM after each step; further arguments differ between releases."""
        if iteration_stats is not None:
            self._reporter.submit(self._report, observations(iteration_stats))

    def log_engine_initialized(self) -> None:
        """Nothing to report."""

    def finalize(self) -> None:
        """Reports what is queued and ends the thread."""
        self._reporter.close()

    def _report(self, values: dict[str, Iterable[float]]) -> None:
        for name, data in values.items():
            metric = self._reporter.metric(name)
            for value in data:
                if name not in self._counters:
                    metric.observe(value)
                elif value:
                    metric.increment(value)
