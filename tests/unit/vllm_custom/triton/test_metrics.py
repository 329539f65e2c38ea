"""Counts of requests, as Triton's metric families get them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.contract.metrics import FAILED, SUCCESS
from vllm_custom.errors import InvalidRequestError, UnavailableError
from vllm_custom.triton.metrics import RequestMetrics

LABELS = {"model": "vl", "version": "3"}
MODEL = tuple(LABELS.items())


class Server:
    """``pb_utils`` with the part of the binding that counts; ``gate`` makes a report as slow as a test wants."""

    def __init__(self, failures: int = 0) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.reports = 0
        self.gate = threading.Event()
        self.gate.set()
        self._failures = failures
        self.MetricFamily: Any = self._family
        self._family.__func__.COUNTER = "counter"  # type: ignore[attr-defined]

    def _family(self, name: str, description: str, kind: str) -> Any:
        assert description.endswith(".")
        assert kind == "counter"

        def metric(labels: dict[str, str]) -> Any:
            key = (name, tuple(sorted(labels.items())))
            assert key not in self.values, "the binding makes a metric once"
            self.values[key] = 0.0
            return SimpleNamespace(increment=lambda value: self._increment(key, value))

        return SimpleNamespace(Metric=metric)

    def _increment(self, key: tuple[str, tuple[tuple[str, str], ...]], value: float) -> None:
        assert value > 0
        assert self.gate.wait(60)
        if self._failures:
            self._failures -= 1
            raise RuntimeError("no answer")
        self.reports += 1
        self.values[key] += value


@pytest.fixture
def errors() -> list[str]:
    return []


def test_successes_and_failures_by_code(errors: list[str]) -> None:
    server = Server()
    metrics = RequestMetrics(server, LABELS, errors.append)
    for error in (None, InvalidRequestError("a"), None, UnavailableError("b"), InvalidRequestError("c")):
        metrics.observe(error)
    metrics.close()
    assert server.values == {
        (SUCCESS, MODEL): 2,
        (FAILED, (("code", "INVALID_ARG"), *MODEL)): 2,
        (FAILED, (("code", "UNAVAILABLE"), *MODEL)): 1,
    }
    assert errors == []


def test_requests_that_end_during_a_report_share_the_next(errors: list[str]) -> None:
    server = Server()
    server.gate.clear()
    metrics = RequestMetrics(server, LABELS, errors.append)
    for _ in range(100):
        metrics.observe(None)
    server.gate.set()
    metrics.close()
    assert server.values == {(SUCCESS, MODEL): 100}
    assert server.reports <= 3


def test_a_report_that_fails_is_logged_and_the_next_one_counts(errors: list[str]) -> None:
    server = Server(failures=1)
    metrics = RequestMetrics(server, LABELS, errors.append)
    metrics.observe(None)
    metrics._reporter._executor.submit(int).result(60)
    metrics.observe(None)
    metrics.close()
    assert errors == ["[vllm_custom] request metrics cannot be reported: no answer"]
    assert server.values == {(SUCCESS, MODEL): 1}


def test_a_server_without_metrics_is_logged_once(errors: list[str]) -> None:
    def metric_family(**_: str) -> None:
        raise RuntimeError("metrics not supported")

    metric_family.COUNTER = "counter"  # type: ignore[attr-defined]
    metrics = RequestMetrics(SimpleNamespace(MetricFamily=metric_family), LABELS, errors.append)
    metrics.observe(None)
    metrics.observe(InvalidRequestError("a"))
    metrics.close()
    assert errors == ["[vllm_custom] request metrics are unavailable: metrics not supported"]
