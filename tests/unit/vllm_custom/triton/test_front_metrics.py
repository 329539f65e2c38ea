"""Counts of fronts, as Triton's metric families get them."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from vllm_custom.contract.metrics import FRONTS, FRONTS_LOST, FRONTS_REPLACED
from vllm_custom.engine.host import Fronts
from vllm_custom.triton.front_metrics import FrontMetrics


class Server:
    """``pb_utils`` with the part of the binding that counts."""

    def __init__(self) -> None:
        self.values: defaultdict[str, float] = defaultdict(float)
        self.MetricFamily: Any = self._family
        for kind in ("COUNTER", "GAUGE"):
            setattr(self._family.__func__, kind, kind)  # type: ignore[attr-defined]

    def _family(self, name: str, description: str, kind: str) -> Any:
        def increment(value: float) -> None:
            assert kind == "COUNTER"
            self.values[name] += value

        def put(value: float) -> None:
            assert kind == "GAUGE"
            self.values[name] = value

        return SimpleNamespace(Metric=lambda labels: SimpleNamespace(increment=increment, set=put))


def test_what_is_attached_is_set_and_what_was_lost_is_added() -> None:
    server, errors = Server(), list[str]()
    metrics = FrontMetrics(server, {"model": "m", "version": "1"}, errors.append)
    for news in (Fronts(3, 0, 0), Fronts(2, 1, 0), Fronts(1, 1, 0), Fronts(2, 0, 1)):
        metrics.observe(news)
    metrics.close()
    assert server.values == {FRONTS: 2, FRONTS_LOST: 2, FRONTS_REPLACED: 1}
    assert errors == []
    metrics.observe(Fronts(3, 0, 0))  # while the model is unloaded
