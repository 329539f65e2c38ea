"""Figures of the engine, as Triton's metric families get them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.host.board import Board, make
from vllm_custom.engine.host.newest import Newest
from vllm_custom.engine.statistics import Labels, Sample, Turn
from vllm_custom.triton import engine_metrics
from vllm_custom.triton.engine_metrics import EngineMetrics
from vllm_custom.triton.engine_source import EngineSource
from vllm_custom.triton.tally import Tally

MODEL = {"model": "vl", "version": "3"}


class Server:
    """``pb_utils`` with the part of the binding that is used.

    A family that is made once more has lost its series, but where ``several`` processes have it.
    """

    def __init__(self, *, several: bool = False) -> None:
        self._several = several
        self.values: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        self.exchanges = 0
        self.MetricFamily: Any = self._family
        for kind in ("COUNTER", "GAUGE"):
            setattr(self._family.__func__, kind, kind)  # type: ignore[attr-defined]

    def _family(self, name: str, description: str, kind: str) -> Any:
        if not self._several:
            self.values.pop(name, None)
        series = self.values.setdefault(name, {})

        def change(key: tuple[tuple[str, str], ...], value: float, *, add: bool) -> None:
            assert add == (kind == "COUNTER")
            assert not add or value > 0
            self.exchanges += 1
            series[key] = value + (series[key] if add else 0.0)

        def metric(labels: dict[str, str]) -> Any:
            assert MODEL.items() <= labels.items()
            key = tuple(sorted(labels.items() - MODEL.items()))
            series.setdefault(key, 0.0)
            return SimpleNamespace(
                increment=lambda value: change(key, value, add=True), set=lambda value: change(key, value, add=False)
            )

        return SimpleNamespace(Metric=metric)


class Statistics:
    """Of an engine; a test changes them."""

    def __init__(self) -> None:
        self.heard_ns = 0
        self.now: dict[tuple[str, Labels], float] = {}
        self.grown: dict[tuple[str, Labels], float] = {}
        self.measured: dict[tuple[str, Labels], float] = {}

    def gauges(self) -> Sequence[Sample]:
        return self._samples(self.now, "GAUGE")

    def counters(self) -> Sequence[Sample]:
        return self._samples(self.grown, "COUNTER")

    def histograms(self) -> Sequence[Sample]:
        return self._samples(self.measured, "COUNTER")

    @staticmethod
    def _samples(values: dict[tuple[str, Labels], float], kind: str) -> Sequence[Sample]:
        return [Sample(name, kind, "Text.", labels, value) for (name, labels), value in dict(values).items()]


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_metrics, "_SECONDS", 0.01)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    make(tmp_path / "board")
    made = Board(tmp_path / "board")
    yield made
    made.close()


def started(server: Server, *sources: Any, errors: list[str] | None = None) -> EngineMetrics:
    return EngineMetrics(server, MODEL, sources, (errors if errors is not None else []).append)


def test_what_has_grown_is_added_and_what_is_0_is_shown() -> None:
    server, statistics = Server(), Statistics()
    statistics.grown = {("tokens_total", ()): 5.0, ("errors_total", (("reason", "x"),)): 0.0}
    statistics.measured = {("seconds_bucket", (("le", "1.0"),)): 2.0}
    metrics = started(server, EngineSource(statistics, None))
    soon(lambda: server.values.get("tokens_total", {}).get((), 0) == 5)
    statistics.grown[("tokens_total", ())] = 12.0
    soon(lambda: server.values["tokens_total"][()] == 12)
    statistics.measured[("seconds_bucket", (("le", "1.0"),))] = 3.0
    metrics.close()
    assert server.values == {
        "tokens_total": {(): 12},
        "errors_total": {(("reason", "x"),): 0},
        "seconds_bucket": {(("le", "1.0"),): 3},
    }
    assert server.exchanges == 4, "only what has changed is told"


def test_only_who_was_told_last_sets_gauges(board: Board) -> None:
    """Else the model would seem to run a request forever which another front has seen end."""
    server = Server(several=True)
    first, second = Statistics(), Statistics()
    sources = [EngineSource(each, Newest(board, row)) for row, each in ((1, first), (2, second))]
    running = ("running", ())
    first.heard_ns, first.now = 1, {running: 3.0}
    both = [started(server, source) for source in sources]
    soon(lambda: server.values.get("running", {}).get(()) == 3)
    second.heard_ns, second.now = 2, {running: 0.0}
    soon(lambda: server.values["running"][()] == 0)
    first.heard_ns = 3
    soon(lambda: server.values["running"][()] == 3)
    for metrics in both:
        metrics.close()


def test_a_family_whose_labels_change_does_not_grow_without_end() -> None:
    server, statistics = Server(), Statistics()
    metrics = started(server, EngineSource(statistics, None))
    for number in range(200):
        statistics.now[("adapters", (("name", str(number)),))] = float(number)
    soon(lambda: (("name", "199"),) in server.values.get("adapters", {}))
    metrics.close()
    assert 1 <= len(server.values["adapters"]) <= 64


def test_what_was_is_not_set_again_when_a_front_is_told_once_more(board: Board) -> None:
    statistics = Statistics()
    source, other = EngineSource(statistics, Newest(board, 1)), Newest(board, 2)
    statistics.heard_ns = 1
    statistics.now = {("running", ()): 1.0}
    assert [sample.family for sample in source.gauges()] == ["running"]
    statistics.now[("adapters", (("name", "zh"),))] = 5.0
    assert [sample.family for sample in source.gauges()] == ["adapters"]
    assert other.turn(2) is not Turn.NOT_MINE
    assert list(source.gauges()) == []
    statistics.heard_ns = 3
    assert [sample.family for sample in source.gauges()] == ["running"]


def test_what_another_front_may_have_reported_late_is_said_again(board: Board) -> None:
    before, after = Statistics(), Statistics()
    first, second = EngineSource(before, Newest(board, 1)), EngineSource(after, Newest(board, 2))
    before.heard_ns, after.heard_ns = 1, 2
    before.now, after.now = {("running", ()): 5.0}, {("running", ()): 0.0}
    late = iter(first.gauges())
    assert next(late).value == 5
    assert [sample.value for sample in second.gauges()] == [0]
    assert list(late) == [], "it has been set now"
    assert [sample.value for sample in second.gauges()] == [0]
    assert list(second.gauges()) == []


def test_series_that_are_no_more_are_forgotten() -> None:
    statistics = Statistics()
    source = EngineSource(statistics, None)
    for number in range(100):
        statistics.now = {("running", ()): 1.0, ("adapters", (("name", str(number)),)): 5.0}
        assert len(list(source.gauges())) == (2 if number == 0 else 1)
    assert len(source._known) == len(source._set) == 2


def test_a_server_without_metrics_is_logged_once() -> None:
    def metric_family(**_: str) -> None:
        raise RuntimeError("metrics not supported")

    metric_family.GAUGE = metric_family.COUNTER = ""  # type: ignore[attr-defined]
    errors: list[str] = []
    metrics = started(SimpleNamespace(MetricFamily=metric_family), Tally(lambda: 0), errors=errors)  # type: ignore[arg-type]
    soon(lambda: bool(errors))
    metrics.close()
    assert errors == ["[vllm_custom] metrics of vLLM are unavailable: metrics not supported"]


def values(samples: Iterable[Sample]) -> dict[str, float]:
    return {sample.family + "".join(text for _, text in sample.labels): sample.value for sample in samples}


def test_the_services_own_figures() -> None:
    inside = [2, 2, 0]
    tally = Tally(lambda: inside.pop(0))
    for seconds in (0.005, 0.0051, 61.0):
        tally.ended(seconds)
    tally.sent(1)
    tally.sent(4)
    assert values(tally.counters()) == {
        "vllm_custom:responses_total": 2,
        "vllm_custom:response_pieces_total": 5,
    }
    measured = values(tally.histograms())
    name = "vllm_custom:request_seconds"
    assert [measured[f"{name}_bucket{end}"] for end in ("0.005", "0.01", "60.0", "+Inf")] == [1, 2, 2, 3]
    assert (measured[f"{name}_count"], measured[f"{name}_sum"]) == (3, pytest.approx(61.0101))
    assert [values(tally.gauges()) for _ in range(3)] == [
        {"vllm_custom:sequences_in_flight": 2},
        {},
        {"vllm_custom:sequences_in_flight": 0},
    ]
