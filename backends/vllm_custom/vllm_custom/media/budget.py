"""A budget of bytes that requests share: a request that needs more than is left waits, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Protocol

from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError, MediaLimitError

_LOOK_AGAIN_SECONDS = 0.005


def check_budgets(settings: Settings) -> None:
    """Raises ConfigError where a request may need more bytes than there are for all requests."""
    if settings.media_inflight_bytes < settings.media_request_bytes:
        raise ConfigError(
            "config.pbtxt: parameter MEDIA_INFLIGHT_BYTES: expected at least MEDIA_REQUEST_BYTES "
            f"({settings.media_request_bytes}), got {settings.media_inflight_bytes}"
        )


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


class SharedCount(Protocol):
    """Bytes that all processes count which serve the model."""

    def take_in_turn(self, amount: int, limit: int) -> bool:
        """Count ``amount`` if there are at most ``limit`` then, and no other process has waited for longer."""

    def stop_waiting(self) -> None:
        """This process does not wait any more."""

    def give_back(self, amount: int) -> None:
        """The counterpart of ``take_in_turn``."""


class SharedBytes(Protocol):
    """The counts of a model that several processes serve."""

    @property
    def decoded_bytes(self) -> SharedCount: ...
    @property
    def file_bytes(self) -> SharedCount: ...


class SharedByteBudget(ByteBudget):
    """One whose limit is for several processes together.

    No process is told what another one gives back: the first in the queue looks again and again.
    """

    def __init__(self, limit: int, count: SharedCount) -> None:
        super().__init__(limit)
        self._count = count
        self._turn = asyncio.Lock()

    async def acquire(self, size: int) -> None:
        if not size:
            return
        async with self._turn:  # in order of arrival
            try:
                while not self._count.take_in_turn(size, self.limit):  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            except BaseException:
                self._count.stop_waiting()
                raise
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size
        if size:
            self._count.give_back(size)


def budget_of(limit: int, count: SharedCount | None) -> ByteBudget:
    """A budget of this process alone, or of all that count with it."""
    return ByteBudget(limit) if count is None else SharedByteBudget(limit, count)


class FileBytes:
    """The files of one request, before they are decoded: inside the with block they count for a budget.

    How long they are is known when they have come, so the most that they may have is taken at first: a request never
    waits for more of the budget while it holds some of it.
    """

    def __init__(self, budget: ByteBudget, most: int, limit: int) -> None:
        """
        Args:
            budget: of the model.
            most: bytes that the files of the request may have, each by itself.
            limit: bytes that they may have together, MEDIA_REQUEST_BYTES.
        """
        self._budget = budget
        self._limit = limit
        self._held = min(most, limit)
        self._counted = 0

    def count(self, size: int) -> None:
        """Bytes have come.

        Raises:
            MediaLimitError: they are too many, together with those before.
        """
        self._counted += size
        if self._counted > self._limit:
            raise MediaLimitError(
                f"media: expected files of at most {self._limit} bytes together (MEDIA_REQUEST_BYTES of this model), "
                "got more",
                "request_bytes",
            )

    def all_here(self) -> None:
        """No more will come: what was taken and is not needed is given back."""
        left = min(self._counted, self._held)
        self._budget.release(self._held - left)
        self._held = left

    async def __aenter__(self) -> FileBytes:
        await self._budget.acquire(self._held)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.release(self._held)
