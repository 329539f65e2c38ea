"""Work that an application has begun for a request and that goes on when the request has its answer."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

# The tasks of the request of this context; None where they are not asked for.
BEGUN: ContextVar[list[asyncio.Task[Any]] | None] = ContextVar("vllm_custom_begun", default=None)
