"""Jobs that run together on one event loop."""

import asyncio
import itertools

import pytest

from vllm_custom.runtime.async_utils import gather_all


async def test_results_are_in_order() -> None:
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert await gather_all(after(turns) for turns in (3, 1, 2)) == [3, 1, 2]


async def test_others_have_their_turn_while_many_start() -> None:
    started: list[int] = []
    seen: list[int] = []

    async def job(number: int) -> None:
        started.append(number)

    async def other() -> None:
        while len(started) < 1000:
            seen.append(len(started))
            await asyncio.sleep(0)

    watching = asyncio.create_task(other())
    await gather_all(job(number) for number in range(1000))
    await watching
    assert len(seen) > 20
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 64


async def test_one_that_fails_ends_the_others() -> None:
    cancelled: list[int] = []

    async def job(number: int) -> None:
        try:
            await asyncio.sleep(0 if number == 50 else 3600)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        raise ValueError("fifty")

    with pytest.raises(ValueError, match="fifty"):
        await gather_all(job(number) for number in range(100))
    assert sorted(cancelled) == [number for number in range(100) if number != 50]
