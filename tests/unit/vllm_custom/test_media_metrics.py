"""Counts of fetches, as Triton's metric families get them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from vllm_custom.media.metrics import FetchRecord, MediaMetrics
from vllm_custom.media.policy import Refusal


class MetricFamily:
    """``pb_utils.MetricFamily``; counters go up only."""

    COUNTER = "counter"
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]
    threads: set[threading.Thread]
    made: list[str]

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description.endswith(".")
        assert kind == self.COUNTER
        self.made.append(name)
        self._name = name

    def Metric(self, labels: dict[str, str]) -> Any:  # noqa: N802  (the binding's name)
        key = (self._name, tuple(sorted(labels.items())))
        assert key not in self.values, "the binding makes a metric once"
        self.values[key] = 0.0

        def increment(value: float) -> None:
            assert value > 0
            self.threads.add(threading.current_thread())
            self.values[key] += value

        return SimpleNamespace(increment=increment)


def make(errors: list[str]) -> tuple[MediaMetrics, type[MetricFamily]]:
    family = type("Family", (MetricFamily,), {"values": {}, "threads": set(), "made": []})
    return MediaMetrics(SimpleNamespace(MetricFamily=family), "vl", errors.append), family


def test_results_rules_bytes_and_seconds_add_up_on_another_thread() -> None:
    errors: list[str] = []
    metrics, family = make(errors)
    for record in (
        FetchRecord("fetched", size=100, seconds=0.5),
        FetchRecord("fetched", size=50, seconds=0.25),
        FetchRecord("refused", Refusal.HOST),
        FetchRecord("refused", Refusal.ADDRESS, seconds=0.25),
        FetchRecord("failed", seconds=1.0),
    ):
        metrics.observe(record)
    metrics.close()
    model = ("model", "vl")
    assert family.values == {
        ("vllm_custom:media_fetches_total", (model, ("result", "fetched"))): 2,
        ("vllm_custom:media_fetches_total", (model, ("result", "refused"))): 2,
        ("vllm_custom:media_fetches_total", (model, ("result", "failed"))): 1,
        ("vllm_custom:media_refusals_total", (model, ("rule", "host"))): 1,
        ("vllm_custom:media_refusals_total", (model, ("rule", "address"))): 1,
        ("vllm_custom:media_fetched_bytes_total", (model,)): 150,
        ("vllm_custom:media_fetch_seconds_total", (model,)): 2.0,
    }
    assert errors == []
    assert threading.current_thread() not in family.threads


def test_a_report_that_fails_is_logged_and_the_next_one_counts() -> None:
    errors: list[str] = []
    metrics, family = make(errors)
    original = family.Metric
    family.Metric = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    metrics.observe(FetchRecord("fetched"))
    metrics._executor.submit(setattr, family, "Metric", original)
    metrics.observe(FetchRecord("fetched"))
    metrics.close()
    assert len(errors) == 1
    assert sum(family.values.values()) == 1


def test_a_server_without_metrics_is_logged_once() -> None:
    errors: list[str] = []

    def metric_family(**_: str) -> None:
        raise RuntimeError("metrics not supported")

    metric_family.COUNTER = "counter"  # type: ignore[attr-defined]
    metrics = MediaMetrics(SimpleNamespace(MetricFamily=metric_family), "vl", errors.append)
    metrics.observe(FetchRecord("fetched"))
    metrics.observe(FetchRecord("fetched"))
    metrics.close()
    assert errors == ["[vllm_custom] media are not counted: metrics not supported"]
