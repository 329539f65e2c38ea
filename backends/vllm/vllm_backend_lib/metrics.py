"""vLLM's statistics as Triton metrics, under the official names."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Any

import triton_python_backend_utils as pb_utils
from vllm.v1.metrics.loggers import StatLoggerBase

from vllm_backend_lib.interfaces import Logger
from vllm_backend_lib.metric_families import Family, families, observations


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
    """Passes vLLM's statistics on to Triton, on a thread of its own: each report is a call to the server process."""

    def __init__(self, labels: dict[str, str], vllm_config: Any, engine_index: int, logger: Logger) -> None:
        self._logger = logger
        self._families: list[Any] = []  # a metric dies with its family
        self._metrics: dict[str, tuple[Any, bool]] = {}
        for family in families(vllm_config.model_config.max_model_len):
            self._metrics[family.name] = (self._register(family, labels), family.buckets is None)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="vllm-metrics", daemon=True)
        self._thread.start()

    def _register(self, family: Family, labels: dict[str, str]) -> Any:
        if family.buckets is None:
            registered = pb_utils.MetricFamily(
                name=family.name, description=family.description, kind=pb_utils.MetricFamily.COUNTER
            )
            metric = registered.Metric(labels=labels)
        else:
            registered = pb_utils.MetricFamily(
                name=family.name, description=family.description, kind=pb_utils.MetricFamily.HISTOGRAM
            )
            metric = registered.Metric(labels=labels, buckets=family.buckets)
        self._families.append(registered)
        return metric

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        """Called by vLLM after each step; further arguments differ between releases."""
        if iteration_stats is not None:
            self._queue.put(observations(iteration_stats))

    def log_engine_initialized(self) -> None:
        """Nothing to report."""

    def finalize(self) -> None:
        """Reports what is queued and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (values := self._queue.get()) is not None:
            try:
                self._report(values)
            except Exception as error:  # the next report may succeed
                self._logger.log_error(f"[vllm] cannot report metrics: {error}")

    def _report(self, values: dict[str, Iterable[float]]) -> None:
        for name, data in values.items():
            metric, is_counter = self._metrics[name]
            for value in data:
                if not is_counter:
                    metric.observe(value)
                elif value:
                    metric.increment(value)
