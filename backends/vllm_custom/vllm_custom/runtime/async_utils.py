"""Small things that asyncio leaves to its users."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

# Unlike asyncio.wait_for on Python 3.11, it never takes a result for an answer where the task was cancelled meanwhile.
if sys.version_info >= (3, 11):
    time_limit = asyncio.timeout
else:
    from async_timeout import timeout as time_limit  # noqa: F401 - aiohttp brings it where asyncio has none

Result = TypeVar("Result")
_STEP = 32


async def gather_all(jobs: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Results in order; when one fails, the others are cancelled and awaited.

    Many jobs start in steps, between which everything else on the loop has its turn; ``jobs`` is then best a generator.
    """
    tasks: list[asyncio.Future[Result]] = []
    try:
        for job in jobs:
            tasks.append(asyncio.ensure_future(_contained(job)))
            if len(tasks) % _STEP == 0:
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Call ``function`` on ``loop``, from any thread; not at all once the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


async def _contained(job: Coroutine[Any, Any, Result]) -> Result:
    """A task that ends with one of these would end the whole event loop, and with it every other request."""
    try:
        return await job
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"{error!r} in a request") from error
