"""Count fetches on Triton's metrics endpoint: how many, how large, how long, and which rules refused what."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vllm_custom.media.policy import Refusal

_FAMILIES = {
    "vllm_custom:media_fetches_total": "URLs of media, by result: fetched, refused, failed or cancelled.",
    "vllm_custom:media_refusals_total": "URLs of media that were refused, by rule.",
    "vllm_custom:media_fetched_bytes_total": "Bytes of media fetched by URL, as they were sent.",
    "vllm_custom:media_fetch_seconds_total": "Seconds spent on URLs of media, waiting for a place not included.",
}


@dataclass(frozen=True)
class FetchRecord:
    """How one URL ended. A URL that is refused before anything is dialled has no seconds."""

    result: str
    rule: Refusal | None = None
    size: int = 0
    seconds: float = 0.0


Observe = Callable[[FetchRecord], None]


def ignore(record: FetchRecord) -> None:
    """Where nobody counts."""


class MediaMetrics:
    """Reports on a thread of its own: each report is a blocking exchange with the server."""

    def __init__(self, pb_utils: Any, model_name: str, log_error: Callable[[str], None]) -> None:
        self._labels = {"model": model_name}
        self._log_error = log_error
        self._families: dict[str, Any] = {}
        self._metric = functools.cache(self._make_metric)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="vllm_custom_metrics")
        self._executor.submit(self._register, pb_utils)

    def observe(self, record: FetchRecord) -> None:
        """Count one URL; returns at once."""
        self._executor.submit(self._report, record)

    def close(self) -> None:
        """Report what waits, and end the thread."""
        self._executor.shutdown(wait=True)

    def _register(self, pb_utils: Any) -> None:
        try:
            self._families = {
                name: pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.COUNTER)
                for name, text in _FAMILIES.items()
            }
        except Exception as error:  # tritonserver runs with its metrics off
            self._log_error(f"[vllm_custom] media are not counted: {error}")

    def _report(self, record: FetchRecord) -> None:
        if not self._families:
            return
        try:
            self._metric("vllm_custom:media_fetches_total", "result", record.result).increment(1)
            if record.rule is not None:
                self._metric("vllm_custom:media_refusals_total", "rule", record.rule.value).increment(1)
            if record.size:
                self._metric("vllm_custom:media_fetched_bytes_total").increment(record.size)
            if record.seconds:
                self._metric("vllm_custom:media_fetch_seconds_total").increment(record.seconds)
        except Exception as error:  # the next report may succeed
            self._log_error(f"[vllm_custom] cannot report metrics: {error}")

    def _make_metric(self, family: str, label: str = "", value: str = "") -> Any:
        return self._families[family].Metric(labels=self._labels | ({label: value} if label else {}))
