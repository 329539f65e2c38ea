"""Responses leave in order, from threads; what piles up is merged; each request gets one final response."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support import fakes
from tests.support.fakes import CompletionOutput, RequestOutput
from vllm_custom.errors import BackendError, InvalidRequestError
from vllm_custom.responses import ResponseDelta
from vllm_custom.triton import cancellation
from vllm_custom.triton.cancellation import CancellationWatcher
from vllm_custom.triton.responses import ResponseBuilder
from vllm_custom.triton.sender import ResponseStream, SenderPool

FINAL = 1


def rows(*texts: str) -> list[ResponseDelta]:
    return [ResponseDelta.from_output(RequestOutput([CompletionOutput(text=text)]), 1) for text in texts]


class Outcome:
    """The ``on_done`` of a stream."""

    def __init__(self) -> None:
        self.results: list[bool] = []
        self._done = threading.Event()

    def __call__(self, error: BackendError | None) -> None:
        self.results.append(error is None)
        self._done.set()

    def wait(self) -> None:
        assert self._done.wait(5)


@pytest.fixture
def log() -> fakes.Log:
    return fakes.Log()


@pytest.fixture
def make_pool(log: fakes.Log) -> Iterator[Callable[..., SenderPool]]:
    pools = []

    def make(threads: int = 2, batched: bool = False, merge: bool = True) -> SenderPool:
        builder = ResponseBuilder(fakes.pb_utils, frozenset({"text_output"}), batched=batched)
        pools.append(SenderPool(builder, log, threads, merge=merge))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def open_stream(pool: SenderPool, sender: fakes.ResponseSender) -> tuple[ResponseStream, Outcome]:
    outcome = Outcome()
    return ResponseStream(pool, sender, outcome), outcome


def test_one_final_response(make_pool: Callable[..., SenderPool]) -> None:
    sender = fakes.ResponseSender()
    stream, outcome = open_stream(make_pool(), sender)
    stream.finish(rows("all"))
    outcome.wait()
    assert (sender.texts, sender.flags, outcome.results) == ([["all"]], [FINAL], [True])
    assert stream.closed


def test_a_batch_is_answered_in_one_response(make_pool: Callable[..., SenderPool]) -> None:
    sender = fakes.ResponseSender()
    stream, outcome = open_stream(make_pool(batched=True), sender)
    stream.finish(rows("a", "b"))
    outcome.wait()
    assert sender.texts == [["a", "b"]]


def test_what_arrives_while_the_sender_is_busy_is_merged(make_pool: Callable[..., SenderPool]) -> None:
    gate = threading.Event()
    sender = fakes.ResponseSender(gate=gate)
    stream, outcome = open_stream(make_pool(), sender)
    stream.push(rows("a"))
    assert sender.arrived.wait(5)
    for text in "bcd":
        stream.push(rows(text))
    stream.finish(rows("e"))
    gate.set()
    outcome.wait()
    assert (sender.texts, sender.flags) == ([["a"], ["bcde"]], [0, FINAL])


def test_without_merging_each_delta_is_a_response(make_pool: Callable[..., SenderPool]) -> None:
    gate = threading.Event()
    sender = fakes.ResponseSender(gate=gate)
    stream, outcome = open_stream(make_pool(merge=False), sender)
    for text in "abc":
        stream.push(rows(text))
    stream.finish(rows("d"))
    gate.set()
    outcome.wait()
    assert (sender.texts, sender.flags) == ([["a"], ["b"], ["c"], ["d"]], [0, 0, 0, FINAL])


@pytest.mark.parametrize("merge", [True, False])
def test_an_error_comes_after_all_that_waits(make_pool: Callable[..., SenderPool], merge: bool) -> None:
    gate = threading.Event()
    sender = fakes.ResponseSender(gate=gate)
    stream, outcome = open_stream(make_pool(merge=merge), sender)
    stream.push(rows("a"))
    assert sender.arrived.wait(5)
    for text in "bc":
        stream.push(rows(text))
    stream.fail(InvalidRequestError("no"))
    gate.set()
    outcome.wait()
    waiting = [["bc"]] if merge else [["b"], ["c"]]
    assert (sender.texts, sender.flags[-1]) == ([["a"], *waiting, ["no"]], FINAL)
    assert outcome.results == [False]


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_many_streams_keep_their_texts_whole_and_in_order(
    make_pool: Callable[..., SenderPool], threads: int, merge: bool
) -> None:
    """Tokens of several bytes among them: a delta is text, so that no way to merge can split a character."""
    pieces = [f"{index}好é🙂" for index in range(50)]
    pool = make_pool(threads, merge=merge)
    senders = [fakes.ResponseSender() for _ in range(40)]
    opened = [open_stream(pool, sender) for sender in senders]

    def produce(part: int) -> None:
        for piece in pieces[:-1]:
            for stream, _ in opened[part::2]:
                stream.push(rows(piece))
        for stream, _ in opened[part::2]:
            stream.finish(rows(pieces[-1]))

    producers = [threading.Thread(target=produce, args=(part,)) for part in range(2)]
    for producer in producers:
        producer.start()
    for _, outcome in opened:
        outcome.wait()
    for producer in producers:
        producer.join()
    for sender in senders:
        assert "".join(text for (text,) in sender.texts) == "".join(pieces)
        assert sender.flags == [0] * (len(sender.flags) - 1) + [FINAL]
        assert len(sender.flags) == len(pieces) or merge


def test_a_stream_that_keeps_up_sends_every_piece_in_order(make_pool: Callable[..., SenderPool]) -> None:
    sender = fakes.ResponseSender()
    stream, outcome = open_stream(make_pool(), sender)
    for index in range(200):
        stream.push(rows(f"{index},"))
    stream.finish(rows("end"))
    outcome.wait()
    text = "".join(piece for (piece,) in sender.texts)
    assert text == "".join(f"{index}," for index in range(200)) + "end"
    assert sender.flags == [0] * (len(sender.flags) - 1) + [FINAL]


def test_many_streams_at_once_are_all_complete(make_pool: Callable[..., SenderPool]) -> None:
    pool = make_pool(3)
    opened = [(sender, *open_stream(pool, sender)) for sender in (fakes.ResponseSender() for _ in range(30))]
    for index in range(20):
        for _, stream, _ in opened:
            stream.push(rows(f"{index},"))
    for _, stream, _ in opened:
        stream.finish(rows("."))
    for sender, _, outcome in opened:
        outcome.wait()
        assert "".join(piece for (piece,) in sender.texts) == "".join(f"{index}," for index in range(20)) + "."
        assert sender.flags.count(FINAL) == 1
        assert outcome.results == [True]


def test_an_error_comes_after_the_chunks_that_were_queued(make_pool: Callable[..., SenderPool]) -> None:
    gate = threading.Event()
    sender = fakes.ResponseSender(gate=gate)
    stream, outcome = open_stream(make_pool(), sender)
    stream.push(rows("a"))
    assert sender.arrived.wait(5)
    stream.push(rows("b"))
    stream.fail(InvalidRequestError("no"))
    gate.set()
    outcome.wait()
    assert (sender.texts, sender.flags) == ([["a"], ["b"], ["no"]], [0, 0, FINAL])
    assert outcome.results == [False]


def test_an_error_alone_carries_its_code(make_pool: Callable[..., SenderPool]) -> None:
    sender = fakes.ResponseSender()
    stream, outcome = open_stream(make_pool(), sender)
    stream.fail(InvalidRequestError("no"))
    outcome.wait()
    ((response, _),) = sender.sent
    assert response.error().code() == fakes.TritonError.INVALID_ARG  # type: ignore[union-attr]


def test_nothing_is_taken_after_the_end(make_pool: Callable[..., SenderPool], log: fakes.Log) -> None:
    sender = fakes.ResponseSender()
    pool = make_pool()
    stream, outcome = open_stream(pool, sender)
    stream.finish(rows("all"))
    stream.push(rows("more"))
    stream.finish(rows("more"))
    stream.fail(InvalidRequestError("late"))
    pool.close()
    assert (sender.texts, sender.flags, outcome.results, log.errors) == ([["all"]], [FINAL], [True], [])


def test_first_responses_go_before_later_ones(make_pool: Callable[..., SenderPool]) -> None:
    pool = make_pool(1)
    gate = threading.Event()
    order: list[str] = []

    class Noting(fakes.ResponseSender):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        def send(self, response: fakes.InferenceResponse | None = None, flags: int = 0) -> None:
            super().send(response, flags)
            order.append(self._name)

    old, _ = open_stream(pool, Noting("old"))
    old.push(rows("1"))
    blocker_sender = fakes.ResponseSender(gate=gate)
    blocker, blocked = open_stream(pool, blocker_sender)
    blocker.push(rows("x"))
    assert blocker_sender.arrived.wait(5)
    old.push(rows("2"))
    new, outcome = open_stream(pool, Noting("new"))
    new.finish(rows("1"))
    old.finish(rows("3"))
    blocker.finish(rows("y"))
    gate.set()
    outcome.wait()
    blocked.wait()
    pool.close()
    assert order == ["old", "new", "old"]


def test_a_response_that_cannot_be_sent_ends_its_stream_only(
    make_pool: Callable[..., SenderPool], log: fakes.Log
) -> None:
    pool = make_pool(1)
    broken = fakes.ResponseSender(failures=1)
    stream, outcome = open_stream(pool, broken)
    stream.push(rows("a"))
    outcome.wait()
    assert stream.closed
    assert (broken.texts, broken.flags, outcome.results) == (
        [["the response could not be built or sent, request id "]],
        [FINAL],
        [False],
    )
    assert "Failed to send the response" in log.errors[0]
    healthy = fakes.ResponseSender()
    stream, outcome = open_stream(pool, healthy)
    stream.finish(rows("fine"))
    outcome.wait()
    assert healthy.texts == [["fine"]]


def test_a_sender_that_always_fails_still_ends_the_request(make_pool: Callable[..., SenderPool]) -> None:
    stream, outcome = open_stream(make_pool(), fakes.ResponseSender(failures=99))
    stream.push(rows("a"))
    outcome.wait()
    assert outcome.results == [False]


def test_a_response_that_cannot_be_built_is_an_error(make_pool: Callable[..., SenderPool], log: fakes.Log) -> None:
    sender = fakes.ResponseSender()
    stream, outcome = open_stream(make_pool(), sender)
    broken = rows("a")
    broken[0].num_input_tokens = "no number"  # type: ignore[assignment]
    stream.additional_outputs = frozenset({"num_input_tokens"})
    stream.finish(broken)
    outcome.wait()
    assert sender.texts == [["the response could not be built or sent, request id "]]
    assert outcome.results == [False]


@pytest.mark.parametrize("failures", [0, 1, 99])
@pytest.mark.parametrize("pieces", [0, 2])
def test_the_last_response_is_told_of_once_and_before_it_goes(
    make_pool: Callable[..., SenderPool], failures: int, pieces: int
) -> None:
    """Whoever gets it may send the next request at once, and finds a place."""
    sender = fakes.ResponseSender(failures=failures)
    done = threading.Event()
    sent_before: list[int] = []
    stream = ResponseStream(
        make_pool(),
        sender,
        on_done=lambda _: done.set(),
        on_final=lambda: sent_before.append(sender.flags.count(FINAL)),
    )
    for _ in range(pieces):
        stream.push(rows("a"))
    stream.finish(rows("b"))
    assert done.wait(5)
    assert sent_before == [0]


def test_closing_sends_what_is_queued(make_pool: Callable[..., SenderPool]) -> None:
    gate = threading.Event()
    sender = fakes.ResponseSender(gate=gate)
    pool = make_pool(2)
    stream, outcome = open_stream(pool, sender)
    stream.push(rows("a"))
    assert sender.arrived.wait(5)
    stream.push(rows("b"))
    stream.finish(rows("c"))
    closer = threading.Thread(target=pool.close)
    closer.start()
    gate.set()
    closer.join(5)
    assert not closer.is_alive()
    assert (sender.texts, outcome.results) == ([["a"], ["bc"]], [True])


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[CancellationWatcher]:
    monkeypatch.setattr(cancellation, "_INTERVAL_SECONDS", 0.005)
    made = CancellationWatcher()
    yield made
    made.close()


def watched(
    watcher: CancellationWatcher, pool: SenderPool, sender: fakes.ResponseSender
) -> tuple[ResponseStream, list[str], threading.Event]:
    stream, _ = open_stream(pool, sender)
    calls: list[str] = []
    called = threading.Event()

    def on_cancel() -> None:
        calls.append(threading.current_thread().name)
        called.set()

    watcher.watch(stream, on_cancel)
    return stream, calls, called


def wait_for_questions(sender: fakes.ResponseSender, count: int) -> None:
    pause = threading.Event()
    for _ in range(500):
        if sender.questions >= count:
            return
        pause.wait(0.01)
    pytest.fail("the watcher does not ask")


def test_a_client_that_has_gone_is_noticed_once(
    watcher: CancellationWatcher, make_pool: Callable[..., SenderPool]
) -> None:
    pool = make_pool()
    gone, stays = fakes.ResponseSender(), fakes.ResponseSender()
    _, calls, called = watched(watcher, pool, gone)
    _, other_calls, _ = watched(watcher, pool, stays)
    wait_for_questions(stays, 2)
    assert calls == []
    gone.cancelled = True
    assert called.wait(5)
    asked = gone.questions
    wait_for_questions(stays, stays.questions + 3)
    assert (calls, other_calls, gone.questions) == (["vllm_custom_cancellation"], [], asked)


def test_finished_requests_are_not_asked_about(
    watcher: CancellationWatcher, make_pool: Callable[..., SenderPool]
) -> None:
    pool = make_pool()
    forgotten, closed, stays = (fakes.ResponseSender() for _ in range(3))
    forgotten_stream, *_ = watched(watcher, pool, forgotten)
    closed_stream, *_ = watched(watcher, pool, closed)
    watched(watcher, pool, stays)
    watcher.unwatch(forgotten_stream)
    watcher.unwatch(forgotten_stream)
    closed_stream.finish(rows("x"))
    before = forgotten.questions + closed.questions
    wait_for_questions(stays, stays.questions + 3)
    assert forgotten.questions + closed.questions <= before + 2


def test_a_question_that_fails_does_not_end_the_watch(
    watcher: CancellationWatcher, make_pool: Callable[..., SenderPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, gone = fakes.ResponseSender(), fakes.ResponseSender()

    def fail() -> bool:
        broken.questions += 1
        raise RuntimeError("the request has ended")

    monkeypatch.setattr(broken, "is_cancelled", fail)
    pool = make_pool()
    _, calls, _ = watched(watcher, pool, broken)
    _, _, called = watched(watcher, pool, gone)
    wait_for_questions(broken, 2)
    gone.cancelled = True
    assert called.wait(5)
    assert calls == []
