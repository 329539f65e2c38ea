"""A request's id, the limit on requests under way, and deadlines."""

import asyncio
from types import SimpleNamespace

import pytest

from vllm_custom.errors import UnavailableError
from vllm_custom.lifecycle import Admission, Arrival, Deadline, shortest


@pytest.mark.parametrize(
    ("sent", "request_id"),
    [("mine-7", "mine-7"), ("", "random"), ("a\nb\x1b", "a?b?"), ("x" * 5000, "x" * 128), ("图", "图")],
)
def test_a_request_has_the_clients_id_or_a_random_one(sent: str, request_id: str) -> None:
    arrival = Arrival.of(SimpleNamespace(request_id=lambda: sent), lambda: "random")
    assert arrival.request_id == request_id


@pytest.mark.parametrize(("timeouts", "expected"), [((), 0), ((0,), 0), ((0, 5), 5), ((9, 5, 0), 5), ((-1, 3), 3)])
def test_the_shortest_timeout_counts_and_zero_is_none(timeouts: tuple[int, ...], expected: int) -> None:
    assert shortest(*timeouts) == expected


def test_requests_beyond_the_limit_are_refused_and_not_counted() -> None:
    admission = Admission(2)
    admission.enter()
    admission.enter()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="too many requests: 2 are under way and MAX_INFLIGHT_REQUESTS is 2"):
            admission.enter()
    admission.leave()
    admission.enter()


def test_zero_is_no_limit() -> None:
    admission = Admission(0)
    for _ in range(1000):
        admission.enter()


async def run(timeout_us: int, seconds: float, *, earlier: float = 0.0) -> Deadline:
    """Wait for ``seconds`` under a deadline of a request that arrived ``earlier`` seconds ago."""
    arrival = Arrival("x")
    deadline = Deadline(Arrival("x", arrival.at - earlier), timeout_us)
    with deadline:
        await asyncio.sleep(seconds)
    return deadline


async def test_a_deadline_cancels_the_task_that_waits() -> None:
    deadline = Deadline(Arrival("x"), 20_000)

    async def work() -> None:
        with deadline:
            await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(work())
    assert deadline.expired
    assert str(deadline.error()) == "timeout: the request did not finish within 20000 microseconds of its arrival"
    assert deadline.error().triton_code == "UNAVAILABLE"


async def test_time_counts_from_the_arrival() -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.ensure_future(run(1_000_000, 0.5, earlier=5)), 10)


@pytest.mark.parametrize("timeout_us", [0, 500_000])
async def test_work_that_is_done_in_time_is_left_alone(timeout_us: int) -> None:
    deadline = await asyncio.ensure_future(run(timeout_us, 0.001))
    await asyncio.sleep(0.6)
    assert not deadline.expired
