"""A budget of bytes that requests share: a request that needs more than is left waits, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteBudget:
    """For one event loop."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes that may be in use at a time."""
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size: int) -> None:
        """Wait until ``size`` bytes, at most :attr:`limit`, can be had together, and take them."""
        if not size or (not self._waiting and self.used + size <= self.limit):
            self.used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._serve()  # those behind may need less
            else:  # it had its turn just before
                self.release(size)
            raise

    def release(self, size: int) -> None:
        """Give ``size`` bytes back."""
        self.used -= size
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if self.used + size > self.limit:
                    return
                self.used += size
                turn.set_result(None)
            self._waiting.popleft()
