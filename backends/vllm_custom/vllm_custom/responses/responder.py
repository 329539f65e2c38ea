"""The interface through which handlers send the responses of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from vllm_custom.errors import BackendError


class Delta(Protocol):
    """What is new of one row of a request."""

    def add(self, later: Any) -> None:
        """Append what came later."""

    def arrays(self, additional: frozenset[str]) -> dict[str, npt.NDArray[Any]]:
        """Output name to array."""


class Responder(Protocol):
    """Where the responses of one request go; after the final response the last three do nothing, and none blocks."""

    additional_outputs: frozenset[str]
    # What the request ended with, where its answer is an error but not one of Triton's.
    failure: BackendError | None

    @property
    def closed(self) -> bool:
        """Whether the final response has been handed in."""

    def is_cancelled(self) -> bool:
        """Ask whether the client has gone. Blocks for one exchange with the server."""

    def push(self, rows: Sequence[Delta]) -> None:
        """Hand in a response: one delta per row of the request."""

    def finish(self, rows: Sequence[Delta]) -> None:
        """Hand in the final response."""

    def fail(self, error: BackendError) -> None:
        """Hand in an error as the final response, after what is waiting already."""
