"""Bytes that requests share: together or not at all, in order, and given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from vllm_custom.media.budget import ByteBudget, budget_of


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_asks_for_more_than_is_left_waits_in_order() -> None:
    budget, order = ByteBudget(10), list[int]()

    async def take(size: int) -> None:
        await budget.acquire(size)
        order.append(size)

    await take(6)
    tasks = [asyncio.create_task(take(size)) for size in (5, 1, 4)]
    await settle()
    assert order == [6], "the small one does not pass the one before it"
    budget.release(6)
    await asyncio.gather(*tasks)
    assert order == [6, 5, 1, 4]
    assert budget.used == 10


async def test_nothing_is_waited_for_where_nothing_is_needed() -> None:
    budget = ByteBudget(1)
    await budget.acquire(1)
    await asyncio.wait_for(budget.acquire(0), 10)


@pytest.mark.parametrize("served", [False, True])
async def test_who_is_cancelled_leaves_the_line_with_nothing(served: bool) -> None:
    """Also where its turn came in the same moment."""
    budget = ByteBudget(10)
    await budget.acquire(8)
    first, second = (asyncio.create_task(budget.acquire(size)) for size in (9, 2))
    await settle()
    if served:
        budget.release(8)
    first.cancel()
    await asyncio.wait_for(second, 10)
    assert first.cancelled() or first.done()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    assert budget.used == (2 if served else 10)


async def test_the_last_in_line_leaves_those_before_it() -> None:
    budget = ByteBudget(10)
    await budget.acquire(8)
    first, second = (asyncio.create_task(budget.acquire(size)) for size in (9, 2))
    await settle()
    second.cancel()
    await settle()
    budget.release(8)
    await asyncio.wait_for(first, 10)
    assert budget.used == 9


class Counts:
    """What other processes do to the bytes of a model."""

    def __init__(self) -> None:
        self.others = 0
        self.own = 0
        self.waiting = False

    def take_in_turn(self, amount: int, limit: int) -> bool:
        self.waiting = self.others + self.own + amount > limit
        self.own += 0 if self.waiting else amount
        return not self.waiting

    def stop_waiting(self) -> None:
        self.waiting = False

    def give_back(self, amount: int) -> None:
        self.own -= amount


async def test_a_shared_budget_waits_for_what_other_processes_hold() -> None:
    counts = Counts()
    budget = budget_of(10, counts)
    counts.others = 8
    first = asyncio.create_task(budget.acquire(5))
    second = asyncio.create_task(budget.acquire(1))
    await asyncio.sleep(0.02)
    assert not first.done()
    assert not second.done(), "the small one does not pass the one before it"
    counts.others = 0
    await asyncio.wait_for(asyncio.gather(first, second), 10)
    assert (budget.used, counts.own) == (6, 6)
    budget.release(5)
    budget.release(1)
    assert (budget.used, counts.own) == (0, 0)


async def test_who_is_cancelled_while_others_hold_the_bytes_waits_no_more() -> None:
    counts = Counts()
    counts.others = 8
    budget = budget_of(10, counts)
    first = asyncio.create_task(budget.acquire(5))
    await settle()
    assert counts.waiting
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert not counts.waiting
    await asyncio.wait_for(budget.acquire(2), 10)
