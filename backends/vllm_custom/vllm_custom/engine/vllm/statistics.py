"""vLLM's metrics: whatever its Prometheus logger has registered in this process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vllm_custom.engine.statistics import Sample
from vllm_custom.engine.vllm.older import statistics as older

_PREFIX = "vllm:"
_MODEL, _ENGINE = "model_name", "engine"
# When a series began, which is no figure of vLLM's.
_BIRTH = "_created"
# Attributes of vLLM's loggers: gauges with a series for whatever names came together, which vLLM keeps forever.
_GROWING = ("gauge_lora_info",)
_MOST_SERIES = 64
# Families that vLLM has renamed, new to old: both are reported where vLLM has the new one alone.
RENAMED = {"vllm:inter_token_latency_seconds": "vllm:time_per_output_token_seconds"}


class VllmStatistics:
    """Of one AsyncLLM, the only one in its process. Thread-safe."""

    def __init__(self, heard: _Heard, registry: Any, *, several: bool, growing: Sequence[Any] = ()) -> None:
        """
        Args:
            heard: is a logger of the AsyncLLM.
            registry: where vLLM registers its metrics.
            several: whether the AsyncLLM has several engines, which samples then distinguish.
            growing: gauges of vLLM's whose series become ever more.
        """
        self._growing = growing
        self._heard = heard
        self._hidden = {_MODEL} if several else {_MODEL, _ENGINE}
        self._registry = registry
        self._kinds: dict[str, str] = {}
        self._discover()

    @classmethod
    def of(cls, llm: Any) -> VllmStatistics | None:
        """None where ``llm`` counts nothing (disable_log_stats)."""
        manager = getattr(llm, "logger_manager", None)
        if manager is None:
            return None
        from vllm.v1.metrics.prometheus import REGISTRY

        heard = _Heard()
        lists, engines = older.loggers(manager)
        others = [*(logger for loggers in lists for logger in loggers), getattr(manager, "prometheus_logger", None)]
        named = (getattr(logger, name, None) for logger in others for name in _GROWING)
        growing = [gauge for gauge in named if gauge is not None]
        for loggers in lists:
            loggers.append(heard)
        return cls(heard, REGISTRY, several=engines > 1, growing=growing)

    @property
    def heard_ns(self) -> int:
        return self._heard.at_ns

    def gauges(self) -> Iterator[Sample]:
        yield from self._samples(self._gauges.collect(), "GAUGE")
        for gauge in self._growing:
            if sum(len(family.samples) for family in gauge.collect()) > _MOST_SERIES:
                gauge.clear()

    def counters(self) -> Iterator[Sample]:
        return self._samples(self._counters.collect(), "COUNTER")

    def histograms(self) -> Iterator[Sample]:
        """As of the protocol; and families that vLLM has registered since are found for all three."""
        return self._samples(self._discover(), "COUNTER")

    def _discover(self) -> list[Any]:
        """Look at everything, which takes longer than to look at gauges or counters. The histograms."""
        families = [family for family in self._registry.collect() if family.name.startswith(_PREFIX)]
        kinds = {family.name: family.type for family in families}
        if kinds != self._kinds:
            self._kinds = kinds
            self._aliases = {new: old for new, old in RENAMED.items() if new in kinds and old not in kinds}
            self._gauges = self._restricted("gauge", "")
            self._counters = self._restricted("counter", "_total")
        return [family for family in families if family.type == "histogram"]

    def _restricted(self, kind: str, end: str) -> Any:
        return self._registry.restricted_registry(name + end for name, found in self._kinds.items() if found == kind)

    def _samples(self, families: Iterable[Any], kind: str) -> Iterator[Sample]:
        for family in families:
            alias = self._aliases.get(family.name)
            for name, given, value, *_ in family.samples:
                if name.endswith(_BIRTH):
                    continue
                labels = tuple((key, text) for key, text in given.items() if key not in self._hidden)
                yield Sample(name, kind, family.documentation, labels, value)
                if alias is not None:
                    renamed = alias + name.removeprefix(family.name)
                    yield Sample(renamed, kind, family.documentation, labels, value)


class _Heard:
    """One of vLLM's stat loggers, which notes when the scheduler was last told of."""

    def __init__(self) -> None:
        self.at_ns = 0

    def record(self, scheduler_stats: Any, *_arguments: Any, **_options: Any) -> None:
        """Called by vLLM for each step that has something for this client."""
        if scheduler_stats is not None:
            self.at_ns = time.monotonic_ns()

    def _ignore(self, *_arguments: Any, **_options: Any) -> None:
        """That is nothing about the scheduler."""

    log = log_engine_initialized = record_sleep_state = record_admission_rejection = _ignore
