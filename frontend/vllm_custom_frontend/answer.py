"""A whole answer of a model, and what it says of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
# The parameter of config.pbtxt that an answer 503 names where only the number of requests is in the way.
_LIMIT = b"MAX_INFLIGHT_REQUESTS"
_UNDER_WAY = re.compile(rb"\b(\d{1,9}) are under way and MAX_INFLIGHT_REQUESTS is (\d{1,9})\b")
# The header of an answer 503 of a model whose engine does not run.
_ENGINE_STATE = "x-engine-state"

# With these the model says that it has not begun with a request.
REFUSALS = frozenset({_TOO_MANY_REQUESTS, _UNAVAILABLE})


@dataclass(frozen=True)
class Answer:
    """Status, headers (names in lower case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def engine_down(self) -> bool:
        """Whether the model says that its engine does not run."""
        return self.status == _UNAVAILABLE and _ENGINE_STATE in self.headers

    @property
    def busy(self) -> bool:
        """Whether nothing but the number of requests is in the way."""
        if self.engine_down:
            return False
        full = "retry-after" in self.headers or _LIMIT in self.body
        return self.status == _TOO_MANY_REQUESTS or (self.status == _UNAVAILABLE and full)

    @property
    def full(self) -> bool:
        """Whether there is no place for any request at all: one with several sequences is refused before that."""
        found = _UNDER_WAY.search(self.body) if self.status == _UNAVAILABLE else None
        return found is not None and int(found[1]) >= int(found[2])
