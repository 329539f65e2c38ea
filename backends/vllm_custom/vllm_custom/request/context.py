"""The id and the arrival time of a request."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_MAX_ID_CHARACTERS = 128


def random_id() -> str:
    """An id that no other request has."""
    return os.urandom(16).hex()


@dataclass(frozen=True)
class RequestContext:
    """A request while it is served.

    Attributes:
        request_id: the client's own, or a random one.
        arrived_at: seconds of the monotonic clock.
        trace_headers: W3C Trace Context for the engine's spans.
    """

    request_id: str
    arrived_at: float = field(default_factory=time.monotonic)
    trace_headers: Mapping[str, str] | None = None

    @classmethod
    def of(cls, client_id: str) -> RequestContext:
        """``client_id`` may be empty, and is cut down to what may stand in a log: printable, and not endless."""
        return cls(_one_line(client_id) or random_id())

    def traced(self, headers: Mapping[str, str] | None) -> RequestContext:
        """The same with W3C Trace Context."""
        return replace(self, trace_headers=headers)


def _one_line(text: str) -> str:
    cut = text[:_MAX_ID_CHARACTERS]
    return cut if cut.isprintable() else "".join(char if char.isprintable() else "?" for char in cut)
