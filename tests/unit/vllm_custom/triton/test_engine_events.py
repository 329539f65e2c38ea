"""Deaths of the engine and tries to start it, as Triton's metric families get them."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from vllm_custom.contract.metrics import ENGINE_DEATHS, ENGINE_RESTARTS, ENGINE_UP
from vllm_custom.triton.engine_events import EngineEvent, EngineEventMetrics

LABELS = {"model": "m", "version": "1"}


class Server:
    """``pb_utils`` with the part of the binding that counts."""

    def __init__(self) -> None:
        self.values: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.MetricFamily: Any = self._family
        for kind in ("COUNTER", "GAUGE"):
            setattr(self._family.__func__, kind, kind)  # type: ignore[attr-defined]

    def _family(self, name: str, description: str, kind: str) -> Any:
        def metric(labels: dict[str, str]) -> Any:
            key = (name, labels.get("result", ""))
            return SimpleNamespace(
                increment=lambda value: self.values.__setitem__(key, self.values[key] + value),
                set=lambda value: self.values.__setitem__(key, value),
            )

        return SimpleNamespace(Metric=metric)


def test_what_becomes_of_an_engine_is_counted() -> None:
    server, errors, seen = Server(), list[str](), []
    metrics = EngineEventMetrics(server, LABELS, errors.append)
    up = (ENGINE_UP, "")
    for event in (EngineEvent.RUNS, EngineEvent.DIED, EngineEvent.FAILED, EngineEvent.FAILED, EngineEvent.STARTED):
        metrics.observe(event)
        metrics._reporter._executor.submit(lambda: seen.append(server.values[up])).result(30)
    metrics.close()
    assert seen == [1, 0, 0, 0, 1]
    assert server.values == {
        up: 1,
        (ENGINE_DEATHS, ""): 1,
        (ENGINE_RESTARTS, "failed"): 2,
        (ENGINE_RESTARTS, "succeeded"): 1,
    }
    assert errors == []
    metrics.observe(EngineEvent.DIED)  # while the model is unloaded
