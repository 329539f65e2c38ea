"""Bytes that requests share: together or not at all, in order, and given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from vllm_custom.media.budget import ByteBudget


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
