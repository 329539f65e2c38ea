"""The engine's thread, the way out and the cancellation watcher, with a fake engine."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from vllm_backend_lib import metric_families
from vllm_backend_lib.cancellation import CancellationWatcher
from vllm_backend_lib.engine import EngineThread
from vllm_backend_lib.errors import ModelLoadError
from vllm_backend_lib.kernel import errors
from vllm_backend_lib.replies import FINAL, MAX_QUEUED_CHUNKS, Reply, ReplyThread

from tests.support.standin_fakes import FakeLogger, FakeSender


class FakeEngine:
    def __init__(self) -> None:
        self.shut_down_on: list[str] = []

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self) -> None:
        self.shut_down_on.append(threading.current_thread().name)


def engine_thread(engine: FakeEngine, ongoing: list[int]) -> EngineThread:
    async def build() -> Any:
        return engine

    return EngineThread(build, lambda: ongoing[0], FakeLogger())


def test_the_engine_lives_and_dies_on_its_thread() -> None:
    engine = FakeEngine()
    thread = engine_thread(engine, [0])
    thread.start()
    assert thread.engine is engine
    assert thread.supported_tasks == ("generate",)
    assert asyncio.run_coroutine_threadsafe(engine.get_supported_tasks(), thread.loop).result(5) == ("generate",)
    thread.stop()
    assert engine.shut_down_on == ["vllm-engine"]
    assert not any(other.name == "vllm-engine" for other in threading.enumerate())
    thread.stop()  # twice does no harm


def test_it_waits_for_ongoing_requests() -> None:
    engine, ongoing = FakeEngine(), [1]
    thread = engine_thread(engine, ongoing)
    thread.start()
    stopper = threading.Thread(target=thread.stop)
    stopper.start()
    time.sleep(0.1)
    assert engine.shut_down_on == []
    ongoing[0] = 0
    stopper.join(10)
    assert engine.shut_down_on == ["vllm-engine"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit(1)])
def test_a_failed_start_leaves_no_thread(error: BaseException) -> None:
    async def build() -> Any:
        raise error

    thread = EngineThread(build, lambda: 0, FakeLogger())
    with pytest.raises(ModelLoadError, match=f"vLLM could not start: {type(error).__name__}: {error}"):
        thread.start()
    assert thread.thread is None
    assert not any(other.name == "vllm-engine" for other in threading.enumerate())


class Threads:
    """Queue, reply thread and watcher, as a model has them."""

    def __init__(self) -> None:
        self.responses: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.logger = FakeLogger()
        self.watcher = CancellationWatcher(self.logger, poll_seconds=0.005)
        self.watcher.start()
        self.finals = 0
        self.replies = ReplyThread(self.responses, self._on_final, FakeLogger(), lambda content: content)
        self.replies.start()

    def _on_final(self) -> None:
        self.finals += 1

    def reply(self, sender: FakeSender) -> Reply:
        return Reply(sender, self.responses, self.watcher, lambda content: content)

    def close(self) -> None:
        self.replies.stop()
        self.watcher.stop()


@pytest.fixture
def threads() -> Any:
    made = Threads()
    yield made
    made.close()


def test_responses_keep_their_order_and_end_once(threads: Threads) -> None:
    sender, error = FakeSender(), errors.InvalidRequestError("wrong")
    reply = threads.reply(sender)
    reply.send({}, final=False)
    reply.fail(error)
    reply.send({}, final=True)
    reply.fail(error)
    assert sender.final.wait(5)
    threads.close()
    assert sender.sent == [({}, 0), (error, FINAL)]
    assert threads.finals == 1


def test_a_sender_that_fails_does_not_stop_the_others(threads: Threads) -> None:
    class Broken(FakeSender):
        def send(self, response: Any = None, flags: int = 0) -> None:
            raise RuntimeError("gone")

    threads.reply(Broken()).send({}, final=True)
    good = FakeSender()
    threads.reply(good).send({}, final=True)
    assert good.final.wait(5)
    threads.close()
    assert threads.finals == 2


def test_a_final_response_that_cannot_be_sent_is_followed_by_an_error(threads: Threads) -> None:
    class Picky(FakeSender):
        def send(self, response: Any = None, flags: int = 0) -> None:
            if isinstance(response, dict):
                raise RuntimeError("cannot serialise")
            super().send(response, flags)

    sender = Picky()
    threads.reply(sender).send({}, final=True)
    assert sender.final.wait(5)
    ((error, flags),) = sender.sent
    assert (str(error), flags) == ("a response could not be sent", FINAL)


def test_an_error_that_cannot_be_made_a_response_is_answered_all_the_same(threads: Threads) -> None:
    def picky(content: Any) -> Any:
        if str(content) != "internal error":
            raise TypeError("cannot convert")
        return content

    sender = FakeSender()
    Reply(sender, threads.responses, threads.watcher, picky).fail(errors.InvalidRequestError("wrong"))
    assert sender.final.wait(5)


def test_responses_of_a_subclass_are_asked_about_cancellation(threads: Threads) -> None:
    sender = FakeSender()
    sender.cancelled = True
    state = {"response_sender": sender, "is_cancelled": False, "last_response_generated": False}
    threads.responses.put((state, "chunk", 0))
    threads.replies.stop()
    assert state["is_cancelled"] is True
    threads.watcher.stop()


async def test_a_cancelled_client_cancels_its_task(threads: Threads) -> None:
    sender = FakeSender()
    reply = threads.reply(sender)
    task = asyncio.create_task(asyncio.sleep(60))
    threads.watcher.watch(reply.state, task)
    sender.cancelled = True
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert reply.state["is_cancelled"] is True
    assert "[vllm] Cancelling the request" in threads.logger.lines  # as the official tests look for


async def test_a_slow_sender_holds_back_its_own_request_only(threads: Threads) -> None:
    class Slow(FakeSender):
        def send(self, response: Any = None, flags: int = 0) -> None:
            gate.wait(60)
            super().send(response, flags)

    gate, slow = threading.Event(), Slow()
    reply = threads.reply(slow)
    await asyncio.wait_for(reply.drain(), 10)
    for _ in range(MAX_QUEUED_CHUNKS):
        reply.send({}, final=False)
    await asyncio.wait_for(threads.reply(FakeSender()).drain(), 10)
    waiting = asyncio.create_task(reply.drain())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    gate.set()
    await asyncio.wait_for(waiting, 10)
    for _ in range(1000):
        await asyncio.wait_for(reply.drain(), 10)
        reply.send({}, final=False)
    reply.send({}, final=True)
    assert slow.final.wait(5)
    assert len(slow.sent) == MAX_QUEUED_CHUNKS + 1001


async def test_a_sender_that_fails_does_not_hold_back_its_request(threads: Threads) -> None:
    class Broken(FakeSender):
        def send(self, response: Any = None, flags: int = 0) -> None:
            raise RuntimeError("gone")

    reply = threads.reply(Broken())
    for _ in range(10):
        await asyncio.wait_for(reply.drain(), 10)
        reply.send({}, final=False)


async def test_nobody_asks_after_the_final_response(threads: Threads) -> None:
    senders = [FakeSender() for _ in range(50)]
    task = asyncio.create_task(asyncio.sleep(60))
    for sender in senders:
        reply = threads.reply(sender)
        threads.watcher.watch(reply.state, task)
        await asyncio.sleep(0.002)
        reply.send({}, final=True)
    await asyncio.sleep(0.05)
    assert not any(sender.asked_after_final for sender in senders)
    assert sum(sender.asked for sender in senders) > 0
    task.cancel()


def test_buckets_follow_one_two_five() -> None:
    assert metric_families.one_two_five_buckets(60) == (1, 2, 5, 10, 20, 50)
    assert metric_families.one_two_five_buckets(1) == (1,)


def test_every_family_gets_its_observations() -> None:
    finished = SimpleNamespace(e2e_latency=1.5, num_prompt_tokens=3, num_generation_tokens=4)
    stats = SimpleNamespace(
        finished_requests=[finished],
        num_prompt_tokens=3,
        num_generation_tokens=1,
        time_to_first_tokens_iter=[0.1],
        inter_token_latencies_iter=[0.2],
        n_params_iter=[1],
    )
    values = metric_families.observations(stats)
    assert set(values) == {family.name for family in metric_families.families(2048)}
    assert values["vllm:e2e_request_latency_seconds"] == [1.5]
    assert values["vllm:prompt_tokens_total"] == [3]
