"""Small things that asyncio leaves to its users."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def gather_all(jobs: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Results in order; when one fails, the others are cancelled and awaited."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Call ``function`` on ``loop``, from any thread; not at all once the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)
