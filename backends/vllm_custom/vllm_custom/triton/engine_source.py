"""The engine's figures, where several processes tell Triton about one engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from vllm_custom.engine.statistics import Labels, Sample, Statistics, Turn


class Newest(Protocol):
    """Compares this process with the others that use the engine."""

    def turn(self, heard_ns: int) -> Turn:
        """Whether this one, which was last told at ``heard_ns``, is to say how the engine is."""

    def said(self) -> None:
        """It has said so: a process that said it meanwhile does so again."""


class EngineSource:
    """Counters add up in Triton; a gauge is what was set last, so only who was told last of the engine sets it."""

    def __init__(self, statistics: Statistics, newest: Newest | None) -> None:
        """``newest``: None where this process alone uses the engine."""
        self._statistics = statistics
        self._newest = newest
        self._set: dict[tuple[str, Labels], float] = {}
        # Families that get series as time goes on, as that which names adapters. What they say of the past stays so.
        self._growing: set[str] = set()
        self._known: set[tuple[str, Labels]] = set()
        self._begun = False

    def counters(self) -> Iterable[Sample]:
        """All."""
        return self._statistics.counters()

    def histograms(self) -> Iterable[Sample]:
        """All."""
        return self._statistics.histograms()

    def gauges(self) -> Iterator[Sample]:
        """Those that have changed; all, where another process may have set them meanwhile.

        Each is to be set before the next is taken.
        """
        turn = self._newest.turn(self._statistics.heard_ns) if self._newest is not None else Turn.MINE
        if turn is Turn.NOT_MINE:
            return
        if turn is Turn.TAKEN_OVER:
            self._set = {key: value for key, value in self._set.items() if key[0] in self._growing}
        samples = list(self._statistics.gauges())
        changed = [sample for sample in samples if self._set.get((sample.family, sample.labels)) != sample.value]
        self._note(changed)
        if len(self._known) > len(samples):
            self._forget(samples)
        yield from changed
        if changed and self._newest is not None:  # Triton may have got another's, of later, before these
            self._newest.said()

    def _note(self, changed: list[Sample]) -> None:
        for sample in changed:
            key = (sample.family, sample.labels)
            if self._begun and key not in self._known:
                self._growing.add(sample.family)
            self._known.add(key)
            self._set[key] = sample.value
        self._begun = True

    def _forget(self, samples: list[Sample]) -> None:
        """What there is no more would become ever more."""
        self._known.intersection_update((sample.family, sample.labels) for sample in samples)
        self._set = {key: value for key, value in self._set.items() if key in self._known}
