"""What an engine counts, as samples of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import NamedTuple, Protocol, TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One value of one family.

    A histogram is counters: one for each bucket, by the label ``le``, and its sum and its count, each a family.

    Attributes:
        family: its name, as the metrics endpoint shows it.
        kind: COUNTER or GAUGE.
        description: of the family.
        labels: in addition to those of the model.
        value: since the engine's start, or now.
    """

    family: str
    kind: str
    description: str
    labels: Labels
    value: float


class Statistics(Protocol):
    """Of one client of an engine. Thread-safe."""

    @property
    def heard_ns(self) -> int:
        """When the engine last told this client about its scheduler, by the monotonic clock; 0 for never."""

    def gauges(self) -> Iterable[Sample]:
        """How the engine is now, as far as this client was told."""

    def counters(self) -> Iterable[Sample]:
        """What has been counted of this client's requests, and of the engine's work that it was told of."""

    def histograms(self) -> Iterable[Sample]:
        """The same, where it was measured."""


class Turn(Enum):
    """Who says how an engine is that several processes use. TAKEN_OVER: this one, and another has since it last did."""

    NOT_MINE = auto()
    MINE = auto()
    TAKEN_OVER = auto()
