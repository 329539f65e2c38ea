"""How an endpoint has answered lately, and what follows for its place in the rotation."""

from __future__ import annotations

import time
from collections.abc import Callable

# An endpoint that fails is left alone for the first time, which doubles with every failure after it, to the last.
_FIRST_REST_SECONDS = 1.0
_LONGEST_REST_SECONDS = 30.0
# So many failures of requests without a success in between, and the endpoint is taken for broken. One is not enough:
# a client may know a request that no server answers well.
_FAILURES_OF_BROKEN = 3


class Health:
    """Of one endpoint: well, resting after a failure, or broken until a probe finds it well.

    Attributes:
        broken: it fails every request, or cannot be reached.
        hung: broken in such a way that requests would wait for nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.broken = False
        self.hung = False
        self._clock = clock
        self._failures = 0
        self._next_rest_seconds = _FIRST_REST_SECONDS
        self._rests_until = float("-inf")

    @property
    def resting(self) -> bool:
        """Whether a failure is so recent that other endpoints are tried first, and no probe is sent."""
        return self.rest_seconds > 0

    @property
    def rest_seconds(self) -> float:
        """How long it is left alone from now on."""
        return max(0.0, self._rests_until - self._clock())

    def succeeded(self) -> None:
        """A request was answered."""
        self.broken = self.hung = False
        self._failures = 0
        self._next_rest_seconds = _FIRST_REST_SECONDS
        self._rests_until = float("-inf")

    def failed(self, *, broken: bool = False, hung: bool = False) -> None:
        """A request or a probe failed.

        Args:
            broken: there is no need for a second one to know.
            hung: no answer came at all.
        """
        self._failures += 1
        self.broken |= broken or hung or self._failures >= _FAILURES_OF_BROKEN
        self.hung |= hung
        if not self.resting:  # those that fail together are one failure
            self._rests_until = self._clock() + self._next_rest_seconds
            self._next_rest_seconds = min(2 * self._next_rest_seconds, _LONGEST_REST_SECONDS)

    def busy(self) -> None:
        """It has refused a request because it is full: nothing is wrong, but others may have capacity."""
        self._rests_until = max(self._rests_until, self._clock() + _FIRST_REST_SECONDS)

    def lost(self) -> None:
        """Its server cannot be reached, or its engine does not run; to find out costs nothing, so each refresh may."""
        self.broken = True

    def probed(self) -> None:
        """A probe was answered. How long it rests after the next failure only a request's success changes."""
        if not self.resting:
            self.broken = self.hung = False
