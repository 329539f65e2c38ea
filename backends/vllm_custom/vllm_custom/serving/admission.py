"""How many requests there may be at once."""

from __future__ import annotations

import threading
from typing import Protocol

from vllm_custom.errors import InvalidRequestError, UnavailableError


class Count(Protocol):
    """A number that is counted up to a limit. Thread-safe."""

    @property
    def total(self) -> int:
        """What is counted now."""

    def take(self, amount: int, limit: int) -> bool:
        """Count ``amount``, if there are at most ``limit`` then; 0 is no limit."""

    def give_back(self, amount: int) -> None:
        """The counterpart of ``take``."""


class OwnCount:
    """Of this process alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0

    def take(self, amount: int, limit: int) -> bool:
        with self._lock:
            if limit and self.total + amount > limit:
                return False
            self.total += amount
            return True

    def give_back(self, amount: int) -> None:
        with self._lock:
            self.total -= amount


class Admission:
    """Counts the sequences under way (a request has n of them) and refuses those beyond a limit. Thread-safe."""

    def __init__(self, limit: int, count: Count | None = None) -> None:
        """
        Args:
            limit: MAX_INFLIGHT_REQUESTS; 0 is no limit.
            count: of all processes that serve the model; None where this is the only one.
        """
        self._limit = limit
        self._count = count or OwnCount()

    @property
    def inside(self) -> int:
        """Sequences under way."""
        return self._count.total

    @property
    def is_full(self) -> bool:
        """Whether there is no place for a single sequence."""
        return bool(self._limit) and self._count.total >= self._limit

    def enter(self, *, counted: bool = True) -> Ticket:
        """A ticket for a request that is not counted before :meth:`Ticket.grow`, as what it asks for is not known yet.

        ``counted`` is false for one that is known to ask for nothing.

        Raises:
            UnavailableError: there is no place for a single sequence.
        """
        if counted and self.is_full:
            raise self._full(self._count.total)
        return Ticket(self)

    def hold(self, sequences: int) -> Ticket:
        """A ticket for ``sequences``.

        Raises:
            InvalidRequestError, UnavailableError: as :meth:`Ticket.grow`.
        """
        ticket = self.enter()
        ticket.grow(sequences)
        return ticket

    def _take(self, sequences: int) -> None:
        if not self._count.take(sequences, self._limit):
            raise self._full(self._count.total)

    def _full(self, total: int) -> UnavailableError:
        return UnavailableError(
            f"too many requests: {total} are under way and MAX_INFLIGHT_REQUESTS is {self._limit}; try again later"
        )

    def _give_back(self, sequences: int) -> None:
        self._count.give_back(sequences)

    def _check_possible(self, sequences: int) -> None:
        if self._limit and sequences > self._limit:
            raise InvalidRequestError(
                f"n: expected at most {self._limit} sequences in one request, all rows and prompts together "
                f"(MAX_INFLIGHT_REQUESTS of this model), got {sequences}"
            )


class Ticket:
    """What one request holds of an :class:`Admission`. Thread-safe."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._lock = threading.Lock()
        self._held = 0
        self._left = False

    def grow(self, sequences: int) -> None:
        """The request turns out to ask for ``sequences`` of them; 0 where the engine has nothing to do.

        Raises:
            InvalidRequestError: more than there may ever be at once.
            UnavailableError: more than there may be now; the request still holds what it had.
        """
        self._admission._check_possible(sequences)
        with self._lock:
            if not self._left and sequences > self._held:
                self._admission._take(sequences - self._held)
                self._held = sequences

    def leave(self) -> None:
        """The request has its final response. Further calls do nothing."""
        with self._lock:
            self._left = True
            held, self._held = self._held, 0
        if held:
            self._admission._give_back(held)
