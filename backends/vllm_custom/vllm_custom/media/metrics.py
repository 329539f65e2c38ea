"""Count media on Triton's metrics endpoint: fetches, refusals by rule, decoding, and what the caches do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from vllm_custom.media.sources.policy import Refusal

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class _Family(NamedTuple):
    """``kind`` is the name of a constant of ``pb_utils.MetricFamily``."""

    kind: str
    description: str


_FAMILIES: Mapping[str, _Family] = {
    "media_fetches_total": _Family("COUNTER", "Media URLs by result: fetched, cached, refused, failed, cancelled."),
    "media_refusals_total": _Family("COUNTER", "Refused media by rule."),
    "media_fetched_bytes_total": _Family("COUNTER", "Bytes of media fetched by URL, as transferred."),
    "media_fetch_seconds": _Family(
        "HISTOGRAM", "Time to fetch one media URL, in seconds, excluding time queued for a fetch slot."
    ),
    "media_decode_seconds": _Family("HISTOGRAM", "Time to decode one item, in seconds, by modality."),
    "media_cache_lookups_total": _Family(
        "COUNTER", "Look-ups in the cache of decoded media by result: hit, miss, shared."
    ),
    "media_cache_bytes": _Family("GAUGE", "Size of the cache of decoded media, in bytes."),
}
_PREFIX = "vllm_custom:"


@dataclass(frozen=True)
class FetchRecord:
    """How one URL ended. A URL that is refused before anything is dialled has no seconds.

    ``url`` is for the log: without query and credentials, and empty where the URL is malformed.
    """

    result: str
    rule: Refusal | None = None
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
        if isinstance(record, FetchRecord) and record.rule is not None:
            log_warn(f"[vllm_custom] media refused by rule {record.rule.value}: {record.url or '(a malformed URL)'}")
        then(record)

    return observe


class MediaMetrics:
    """Reports on a thread of its own: each report is a blocking exchange with the server."""

    def __init__(self, pb_utils: Any, labels: Mapping[str, str], log_error: Callable[[str], None]) -> None:
        """``labels``: model and version, as vLLM's own families have them."""
        self._labels = dict(labels)
        self._log_error = log_error
        self._families: dict[str, Any] = {}
        self._metric = functools.cache(self._make_metric)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="vllm_custom_metrics")
        self._executor.submit(self._register, pb_utils)

    def observe(self, record: Record) -> None:
        """Count one event; returns at once."""
        self._executor.submit(self._report, record)

    def close(self) -> None:
        """Report what waits, end the thread, and let go of Triton's objects, which must not outlive its memory."""
        self._executor.shutdown(wait=True)
        self._families.clear()
        self._metric.cache_clear()

    def _register(self, pb_utils: Any) -> None:
        kinds = pb_utils.MetricFamily
        try:
            self._families = {
                name: kinds(name=_PREFIX + name, description=family.description, kind=getattr(kinds, family.kind))
                for name, family in _FAMILIES.items()
            }
        except Exception as error:  # tritonserver runs with its metrics off
            self._log_error(f"[vllm_custom] media metrics are unavailable: {error}")

    def _report(self, record: Record) -> None:
        if not self._families:
            return
        try:
            if isinstance(record, FetchRecord):
                self._report_fetch(record)
            elif isinstance(record, LimitRecord):
                self._metric("media_refusals_total", "rule", record.rule).increment(1)
            elif isinstance(record, DecodeRecord):
                self._metric("media_decode_seconds", "modality", record.modality).observe(record.seconds)
            elif isinstance(record, LookupRecord):
                self._metric("media_cache_lookups_total", "result", record.result).increment(1)
            else:
                self._metric("media_cache_bytes").set(record.size)
        except Exception as error:  # the next report may succeed
            self._log_error(f"[vllm_custom] cannot report metrics: {error}")

    def _report_fetch(self, record: FetchRecord) -> None:
        self._metric("media_fetches_total", "result", record.result).increment(1)
        if record.rule is not None:
            self._metric("media_refusals_total", "rule", record.rule.value).increment(1)
        if record.size:
            self._metric("media_fetched_bytes_total").increment(record.size)
        if record.seconds:
            self._metric("media_fetch_seconds").observe(record.seconds)

    def _make_metric(self, family: str, label: str = "", value: str = "") -> Any:
        labels = self._labels | ({label: value} if label else {})
        buckets = {"buckets": list(_SECONDS)} if _FAMILIES[family].kind == "HISTOGRAM" else {}
        return self._families[family].Metric(labels=labels, **buckets)
