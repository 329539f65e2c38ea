"""Count requests on Triton's metrics endpoint: Triton 24.10 itself counts those answered with an error as successes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vllm_custom.errors import BackendError

SUCCESS = "vllm_custom:requests_success_total"
FAILED = "vllm_custom:requests_failed_total"
_FAMILIES = {
    SUCCESS: "Requests that completed without an error.",
    FAILED: "Requests that ended with an error, by Triton's error code.",
}


class RequestMetrics:
    """Counts each final response once.

    A report is a blocking exchange with the server, so a thread of its own makes them, and requests that end meanwhile
    go into the next one together.
    """

    def __init__(self, pb_utils: Any, labels: Mapping[str, str], log_error: Callable[[str], None]) -> None:
        """``labels``: model and version, as vLLM's own families have them."""
        self._labels = dict(labels)
        self._log_error = log_error
        self._families: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="vllm_custom_request_metrics")
        self._executor.submit(self._register, pb_utils)

    def observe(self, error: BackendError | None) -> None:
        """Count one request, by the error that it ended with; returns at once."""
        with self._lock:
            first = not self._waiting
            self._waiting[error.triton_code if error is not None else ""] += 1
        if first:
            self._executor.submit(self._report)

    def close(self) -> None:
        """Report what waits, end the thread, and let go of Triton's objects, which must not outlive its memory."""
        self._executor.shutdown(wait=True)
        self._families.clear()
        self._metrics.clear()

    def _register(self, pb_utils: Any) -> None:
        try:
            self._families = {
                name: pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.COUNTER)
                for name, text in _FAMILIES.items()
            }
        except Exception as error:  # tritonserver runs with its metrics off
            self._log_error(f"[vllm_custom] request metrics are unavailable: {error}")

    def _report(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, Counter()
        if not self._families:
            return
        try:
            for code, count in waiting.items():
                self._metric(code).increment(count)
        except Exception as error:  # the next report may succeed
            self._log_error(f"[vllm_custom] cannot report metrics: {error}")

    def _metric(self, code: str) -> Any:
        if code not in self._metrics:
            labels = self._labels | ({"code": code} if code else {})
            self._metrics[code] = self._families[FAILED if code else SUCCESS].Metric(labels=labels)
        return self._metrics[code]
