"""What is left of a request when it has its answer: work that goes on, and what is kept for later requests."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

# The tasks of the request of this context; None where they are not asked for.
BEGUN: ContextVar[list[asyncio.Task[Any]] | None] = ContextVar("vllm_custom_begun", default=None)


@dataclass(frozen=True)
class Storage:
    """At most so many responses, and about so many bytes of them."""

    responses: int = 0
    bytes: int = 1 << 30


NO_STORAGE = Storage()
