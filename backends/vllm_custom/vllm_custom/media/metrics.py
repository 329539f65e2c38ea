"""Count media on Triton's metrics endpoint: fetches, refusals by rule, decoding, and what the caches do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from vllm_custom.contract.metrics import (
    CACHE_BYTES,
    CACHE_LOOKUPS,
    DECODE_SECONDS,
    FETCH_SECONDS,
    FETCHED_BYTES,
    FETCHES,
    MEDIA_METRICS,
    REFUSALS,
)
from vllm_custom.kernel.metrics import MetricReporter


@dataclass(frozen=True)
class FetchRecord:
    """How one URL ended. A URL that is refused before anything is dialled has no seconds.

    ``rule`` is the name of the rule that it breaks, empty for none. ``url`` is for the log: without query and
    credentials, and empty where the URL is malformed.
    """

    result: str
    rule: str = ""
    size: int = 0
    seconds: float = 0.0
    url: str = ""


@dataclass(frozen=True)
class LimitRecord:
    """Media beyond a limit of the model were refused: items, bytes, pixels or seconds."""

    rule: str


@dataclass(frozen=True)
class DecodeRecord:
    """One item that was decoded or found damaged."""

    modality: str
    seconds: float


@dataclass(frozen=True)
class LookupRecord:
    """An item was in the cache of decoded media (hit), was not (miss), or was being decoded just then (shared)."""

    result: str


@dataclass(frozen=True)
class CacheSizeRecord:
    """Bytes that the cache of decoded media holds from now on."""

    size: int


Record: TypeAlias = FetchRecord | LimitRecord | DecodeRecord | LookupRecord | CacheSizeRecord
Observe: TypeAlias = Callable[[Record], None]


def ignore(record: Record) -> None:
    """Discard the event."""


def log_refusals(log_warn: Callable[[str], None], then: Observe) -> Observe:
    """An observer that logs each URL that was refused, before it passes the event on."""

    def observe(record: Record) -> None:
        if isinstance(record, FetchRecord) and record.rule:
            log_warn(f"[vllm_custom] media refused by rule {record.rule}: {record.url or '(a malformed URL)'}")
        then(record)

    return observe


class MediaMetrics:
    """Reports each event on a thread of its own."""

    def __init__(self, pb_utils: Any, labels: Mapping[str, str], log_error: Callable[[str], None]) -> None:
        """``labels``: model and version, as vLLM's own families have them."""
        self._reporter = MetricReporter(
            pb_utils, MEDIA_METRICS, labels, log_error, what="[vllm_custom] media metrics", thread="vllm_custom_metrics"
        )

    def observe(self, record: Record) -> None:
        """Count one event; returns at once."""
        self._reporter.submit(self._report, record)

    def close(self) -> None:
        """Report what waits, and end the thread."""
        self._reporter.close()

    def _report(self, record: Record) -> None:
        metric = self._reporter.metric
        if isinstance(record, FetchRecord):
            self._report_fetch(record)
        elif isinstance(record, LimitRecord):
            metric(REFUSALS, rule=record.rule).increment(1)
        elif isinstance(record, DecodeRecord):
            metric(DECODE_SECONDS, modality=record.modality).observe(record.seconds)
        elif isinstance(record, LookupRecord):
            metric(CACHE_LOOKUPS, result=record.result).increment(1)
        else:
            metric(CACHE_BYTES).set(record.size)

    def _report_fetch(self, record: FetchRecord) -> None:
        metric = self._reporter.metric
        metric(FETCHES, result=record.result).increment(1)
        if record.rule:
            metric(REFUSALS, rule=record.rule).increment(1)
        if record.size:
            metric(FETCHED_BYTES).increment(record.size)
        if record.seconds:
            metric(FETCH_SECONDS).observe(record.seconds)
