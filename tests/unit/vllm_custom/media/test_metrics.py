"""Counts of fetches, as Triton's metric families get them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from vllm_custom.contract.metrics import METRICS
from vllm_custom.media.metrics import (
    CacheSizeRecord,
    DecodeRecord,
    FetchRecord,
    LimitRecord,
    LookupRecord,
    MediaMetrics,
    ignore,
    log_refusals,
)

# As they are declared.
LABELS = {family.name: {label for label, _ in family.labels} for family in METRICS}


class MetricFamily:
    """``pb_utils.MetricFamily``; counters go up only. A histogram's value is the list of what it observed."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    values: dict[tuple[str, tuple[tuple[str, str], ...]], Any]
    threads: set[threading.Thread]

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description.endswith(".")
        self._name, self._kind = name, kind

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Any:  # noqa: N802  (the binding's)
        assert (buckets is not None) == (self._kind == self.HISTOGRAM)
        assert set(labels) == {"model", "version"} | LABELS[self._name]
        key = (self._name, tuple(sorted(labels.items())))
        assert key not in self.values, "the binding makes a metric once"
        self.values[key] = [] if buckets else 0.0

        def increment(value: float) -> None:
            assert value > 0
            assert self._kind == self.COUNTER
            self.threads.add(threading.current_thread())
            self.values[key] += value

        def observe(value: float) -> None:
            self.values[key].append(value)

        def set_to(value: float) -> None:
            assert self._kind == self.GAUGE
            self.values[key] = value

        return SimpleNamespace(increment=increment, observe=observe, set=set_to)


def make(errors: list[str]) -> tuple[MediaMetrics, type[MetricFamily]]:
    family = type("Family", (MetricFamily,), {"values": {}, "threads": set()})
    return MediaMetrics(SimpleNamespace(MetricFamily=family), {"model": "vl", "version": "3"}, errors.append), family


def test_results_rules_bytes_and_seconds_add_up_on_another_thread() -> None:
    errors: list[str] = []
    metrics, family = make(errors)
    for record in (
        FetchRecord("fetched", size=100, seconds=0.5),
        FetchRecord("fetched", size=50, seconds=0.25),
        FetchRecord("refused", "host"),
        FetchRecord("refused", "address", seconds=0.25),
        FetchRecord("failed", seconds=1.0),
        LimitRecord("pixels"),
        LimitRecord("pixels"),
    ):
        metrics.observe(record)
    metrics.close()
    model, version = ("model", "vl"), ("version", "3")
    assert family.values == {
        ("vllm_custom:media_fetches_total", (model, ("result", "fetched"), version)): 2,
        ("vllm_custom:media_fetches_total", (model, ("result", "refused"), version)): 2,
        ("vllm_custom:media_fetches_total", (model, ("result", "failed"), version)): 1,
        ("vllm_custom:media_refusals_total", (model, ("rule", "host"), version)): 1,
        ("vllm_custom:media_refusals_total", (model, ("rule", "address"), version)): 1,
        ("vllm_custom:media_refusals_total", (model, ("rule", "pixels"), version)): 2,
        ("vllm_custom:media_fetched_bytes_total", (model, version)): 150,
        ("vllm_custom:media_fetch_seconds", (model, version)): [0.5, 0.25, 0.25, 1.0],
    }
    assert errors == []
    assert threading.current_thread() not in family.threads


def test_decoding_and_the_cache_are_counted() -> None:
    errors: list[str] = []
    metrics, family = make(errors)
    for record in (
        LookupRecord("miss"),
        DecodeRecord("image", 0.5),
        CacheSizeRecord(300),
        LookupRecord("hit"),
        LookupRecord("hit"),
        LookupRecord("shared"),
        DecodeRecord("video", 2.0),
        CacheSizeRecord(200),
    ):
        metrics.observe(record)
    metrics.close()
    model, version = ("model", "vl"), ("version", "3")
    assert errors == []
    assert family.values == {
        ("vllm_custom:media_cache_lookups_total", (model, ("result", "miss"), version)): 1,
        ("vllm_custom:media_cache_lookups_total", (model, ("result", "hit"), version)): 2,
        ("vllm_custom:media_cache_lookups_total", (model, ("result", "shared"), version)): 1,
        ("vllm_custom:media_decode_seconds", (("modality", "image"), model, version)): [0.5],
        ("vllm_custom:media_decode_seconds", (("modality", "video"), model, version)): [2.0],
        ("vllm_custom:media_cache_bytes", (model, version)): 200,
    }


def test_refused_urls_are_logged_and_all_events_passed_on() -> None:
    lines: list[str] = []
    passed: list[object] = []
    observe = log_refusals(lines.append, passed.append)
    sent = [
        FetchRecord("refused", "host", url="http://evil.test/a.png"),
        FetchRecord("refused", "malformed"),
        FetchRecord("fetched", url="http://media.test/a.png"),
        LookupRecord("hit"),
    ]
    for record in sent:
        observe(record)
    assert passed == sent
    assert lines == [
        "[vllm_custom] media refused by rule host: http://evil.test/a.png",
        "[vllm_custom] media refused by rule malformed: (a malformed URL)",
    ]
    log_refusals(lines.append, ignore)(sent[2])
    assert len(lines) == 2


def test_a_report_that_fails_is_logged_and_the_next_one_counts() -> None:
    errors: list[str] = []
    metrics, family = make(errors)
    original = family.Metric
    family.Metric = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    metrics.observe(FetchRecord("fetched"))
    metrics._reporter._executor.submit(setattr, family, "Metric", original)
    metrics.observe(FetchRecord("fetched"))
    metrics.close()
    assert len(errors) == 1
    assert sum(family.values.values()) == 1


def test_a_server_without_metrics_is_logged_once() -> None:
    errors: list[str] = []

    def metric_family(**_: str) -> None:
        raise RuntimeError("metrics not supported")

    metric_family.COUNTER = metric_family.GAUGE = metric_family.HISTOGRAM = ""  # type: ignore[attr-defined]
    metrics = MediaMetrics(SimpleNamespace(MetricFamily=metric_family), {"model": "vl", "version": "3"}, errors.append)
    metrics.observe(FetchRecord("fetched"))
    metrics.observe(FetchRecord("fetched"))
    metrics.close()
    assert errors == ["[vllm_custom] media metrics are unavailable: metrics not supported"]
