"""Count requests on Triton's metrics endpoint: Triton 24.10 itself counts those answered with an error as successes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from vllm_custom.contract.metrics import FAILED, REQUEST_METRICS, SUCCESS
from vllm_custom.errors import BackendError
from vllm_custom.kernel.metrics import MetricReporter


class RequestMetrics:
    """Counts each final response once.

    A report is a blocking exchange with the server; requests that end meanwhile go into the next one together.
    """

    def __init__(self, pb_utils: Any, labels: Mapping[str, str], log_error: Callable[[str], None]) -> None:
        """``labels``: model and version, as vLLM's own families have them."""
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._reporter = MetricReporter(
            pb_utils,
            REQUEST_METRICS,
            labels,
            log_error,
            what="[vllm_custom] request metrics",
            thread="vllm_custom_request_metrics",
        )

    def observe(self, error: BackendError | None) -> None:
        """Count one request, by the error that it ended with; returns at once."""
        with self._lock:
            first = not self._waiting
            self._waiting[error.triton_code if error is not None else ""] += 1
        if first:
            self._reporter.submit(self._report)

    def close(self) -> None:
        """Report what waits, and end the thread."""
        self._reporter.close()

    def _report(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, Counter()
        for code, count in waiting.items():
            metric = self._reporter.metric(FAILED, code=code) if code else self._reporter.metric(SUCCESS)
            metric.increment(count)
