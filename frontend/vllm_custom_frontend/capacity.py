"""Refuse for a model that is full: it has other work, and each refusal costs it and its server some of that time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from vllm_custom_frontend.answer import Answer

# Requests of other processes, which are not counted here, may have ended meanwhile.
_SECONDS = 0.1


class Capacity:
    """Of one endpoint: how many requests of this process it had when it said that it was full.

    While there are as many, and it has said so a moment ago, it would say so again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = 0
        self._most = 0
        self._until = float("-inf")
        self._refusal: Answer | None = None

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """A request is with the endpoint."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def note(self, refusal: Answer) -> None:
        """The endpoint has refused a request, which is still counted among those that it has."""
        if refusal.full:
            self._most, self._until, self._refusal = self._open - 1, self._clock() + _SECONDS, refusal

    @property
    def refusal(self) -> Answer | None:
        """What the endpoint would answer to a further request; None where it has to be asked."""
        return self._refusal if self._open >= self._most and self._clock() < self._until else None
