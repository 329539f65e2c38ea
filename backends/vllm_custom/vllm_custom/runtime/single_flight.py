"""Share one call among all that ask for the same thing at the same time (single flight)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class _Running(Generic[V]):
    task: asyncio.Task[V]
    waiters: int = 0


class SingleFlight(Generic[K, V]):
    """Calls under way, by key. For one event loop."""

    def __init__(self) -> None:
        self._running: dict[K, _Running[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._running

    async def get(self, key: K, call: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """What the call under way for ``key`` gives or raises; ``call`` begins one where there is none.

        A caller that is cancelled leaves the others their call; the last one cancels it.
        """
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Running(asyncio.create_task(call()))
        running.waiters += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiters -= 1
            if (not running.waiters or running.task.done()) and self._running.get(key) is running:
                del self._running[key]
                running.task.cancel()
