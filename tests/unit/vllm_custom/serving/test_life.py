"""Every way in which a request can end, in every state: exactly one final response, and nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import fakes
from tests.support.fake_engine import TEXT_ONLY, DeadError, EngineError, FakeEngine
from tests.support.service_harness import Model, Panic, Sender, wait_until

CODES = fakes.TritonError


@pytest.fixture
def model() -> Iterator[Model]:
    with Model(FakeEngine(TEXT_ONLY)) as model:
        yield model
        model.settle()


def code(sender: Sender) -> int:
    assert sender.flags.count(1) == 1, "exactly one final response"
    return int(sender.error.code())


# States: where a request is when something happens to it. Each gives the engine a hook to call there.
def _rendering(engine: FakeEngine, hook: Callable[..., Any]) -> None:
    engine.before_render = hook


def _first_token(engine: FakeEngine, hook: Callable[..., Any]) -> None:
    engine.before_token = hook


def _mid_stream(engine: FakeEngine, hook: Callable[..., Any]) -> None:
    engine.before_token = lambda number: hook() if number == 2 else None


STATES = [_rendering, _first_token, _mid_stream]
STREAMED = [False, True]
streamed = pytest.mark.parametrize("stream", STREAMED, ids=["whole", "streamed"])
states = pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.strip("_"))


async def _hang(*_: Any) -> None:
    await asyncio.Event().wait()


async def _hang_on_cancellation(*_: Any) -> None:
    """As a library that loses the first cancellation."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


def _raising(error: BaseException) -> Callable[..., Any]:
    def hook(*_: Any) -> None:
        raise error

    return hook


@streamed
def test_a_request_that_is_served(model: Model, stream: bool) -> None:
    sender = model.submit(parameters={"max_tokens": 3}, stream=stream, exclude_input_in_output=True).wait()
    assert sender.error is None
    assert "".join(text for texts in sender.texts for text in texts) == " one two three"
    assert sender.flags.count(1) == 1


@states
@streamed
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EngineError("top_p is wrong"), CODES.INVALID_ARG),
        (EngineError("\ud800 at the wrong place"), CODES.INVALID_ARG),
        (DeadError(), CODES.UNAVAILABLE),
        (RuntimeError("a defect"), CODES.INTERNAL),
        (RuntimeError("\ud800"), CODES.INTERNAL),
        (MemoryError(), CODES.INTERNAL),
        (RecursionError(), CODES.INTERNAL),
        (Panic("capacity overflow"), CODES.INTERNAL),
        (SystemExit(1), CODES.INTERNAL),
        (KeyboardInterrupt(), CODES.INTERNAL),
        (GeneratorExit(), CODES.INTERNAL),
        (StopAsyncIteration(), CODES.INTERNAL),
        (asyncio.CancelledError(), CODES.UNAVAILABLE),
    ],
    ids=repr,
)
def test_whatever_is_raised_is_answered(
    model: Model, state: Any, stream: bool, error: BaseException, expected: int
) -> None:
    """Seen before: an error text with a lone surrogate, and a panic of a Rust library, were never answered."""
    state(model.engine, _raising(error))
    sender = model.submit(stream=stream).wait()
    assert code(sender) == expected
    model.settle()
    state(model.engine, lambda *_: None)
    assert model.submit().wait().error is None, "the next request is served"


@states
@streamed
def test_a_client_that_goes(model: Model, state: Any, stream: bool) -> None:
    state(model.engine, _hang)
    sender = model.submit(stream=stream)
    wait_until(lambda: model.admission.inside == 1)
    sender.cancelled = True
    assert code(sender.wait()) == CODES.CANCELLED
    model.settle()
    # The beginnings are the official backend's, whose own tests look for them.
    said = ("[vllm] Cancelling the request ", "[vllm] Successfully cancelled the request ")
    wait_until(lambda: [line for line in model.log.lines if line.startswith(said[1])] != [])
    assert [[line for line in model.log.lines if line.startswith(text)] != [] for text in said] == [True, True]


@states
@streamed
@pytest.mark.parametrize("hang", [_hang, _hang_on_cancellation])
def test_a_request_whose_time_is_over(model: Model, state: Any, stream: bool, hang: Any) -> None:
    state(model.engine, hang)
    sender = model.submit(stream=stream, parameters={"timeout": 50_000}).wait()
    assert code(sender) == CODES.UNAVAILABLE
    assert "timeout: the request did not finish within 50000 microseconds" in sender.error.message()
    wait_until(lambda: model.admission.inside == 0)
    wait_until(lambda: model.base.count == 0)
    if hang is _hang_on_cancellation:  # what a library keeps running is ended by the next cancellation
        for task in asyncio.all_tasks(model.base.event_loop):
            model.base.event_loop.call_soon_threadsafe(task.cancel)


def test_the_timeout_of_the_protocol_counts_too(model: Model) -> None:
    model.engine.before_token = _hang
    assert code(model.submit(timeout_us=50_000).wait()) == CODES.UNAVAILABLE


@pytest.mark.parametrize("name", ["text_input", "messages"])
def test_a_prompt_that_takes_too_long_to_render(name: str) -> None:
    """A chat template that runs for minutes held its request for as long."""
    given = {"text_input": {}, "messages": {"text": None, "messages": '[{"role": "user", "content": "hello"}]'}}[name]
    with Model(FakeEngine(TEXT_ONLY, before_render=_hang), RENDER_TIMEOUT_SECONDS="1") as slow:
        sender = slow.submit(**given).wait()
        assert code(sender) == CODES.INVALID_ARG
        assert sender.error.message().startswith(f"{name}: expected a prompt that is rendered within 1 seconds")
        slow.settle()


@streamed
def test_an_engine_that_dies(model: Model, stream: bool) -> None:
    reached = threading.Event()

    async def wait_for_death(number: int) -> None:
        if number == 2:
            reached.set()
            while not model.engine.died:  # noqa: ASYNC110  # an engine tells nobody
                await asyncio.sleep(0.001)

    model.engine.before_token = wait_for_death
    sender = model.submit(stream=stream)
    assert reached.wait(10)
    model.engine.die()
    assert code(sender.wait()) == CODES.UNAVAILABLE
    after = model.submit().wait()
    assert code(after) == CODES.UNAVAILABLE
    assert "the vLLM engine has died" in after.error.message()
    assert model.unloads == []


def test_a_dead_engine_is_unloaded_where_that_is_wanted() -> None:
    with Model(FakeEngine(TEXT_ONLY, died=True), ENABLE_VLLM_HEALTH_CHECK="true") as model:
        for _ in range(3):
            assert code(model.submit().wait()) == CODES.UNAVAILABLE
        wait_until(lambda: model.unloads == ["model"])
        assert model.submit().wait().error.message() == "Model is unavailable due to unhealthy vLLM engine"
        model.settle()


def test_a_dead_engine_that_cannot_be_unloaded_is_not_said_to_be() -> None:
    """Seen before: without explicit model control the model was "being unloaded" forever."""
    refuses = _raising(RuntimeError("explicit model load / unload not allowed"))
    with Model(FakeEngine(TEXT_ONLY, died=True), unload=refuses, ENABLE_VLLM_HEALTH_CHECK="true") as model:
        assert code(model.submit().wait()) == CODES.UNAVAILABLE
        wait_until(lambda: any("cannot be unloaded" in line for line in model.log.lines))
        assert model.submit().wait().error.message() == ("the vLLM engine has died; the model has to be loaded again")
        model.settle()


def test_a_model_that_is_being_unloaded(model: Model) -> None:
    model.base.shutting_down = True
    assert code(model.submit().wait()) == CODES.UNAVAILABLE


def test_too_many_requests(model: Model) -> None:
    with Model(FakeEngine(TEXT_ONLY, before_token=_hang), MAX_INFLIGHT_REQUESTS="2") as full:
        held = [full.submit() for _ in range(2)]
        assert code(full.submit().wait()) == CODES.UNAVAILABLE
        held[0].cancelled = True
        assert code(held[0].wait()) == CODES.CANCELLED
        full.engine.before_token = None
        assert full.submit().wait().error is None
        held[1].cancelled = True
        held[1].wait()
        full.settle()


@pytest.mark.parametrize(("n", "expected"), [(3, CODES.UNAVAILABLE), (4, CODES.INVALID_ARG)])
def test_each_sequence_counts(n: int, expected: int) -> None:
    with Model(FakeEngine(TEXT_ONLY, before_token=_hang), MAX_INFLIGHT_REQUESTS="3") as full:
        held = full.submit()
        refused = full.submit(parameters={"n": n})
        assert code(refused.wait()) == expected
        assert "MAX_INFLIGHT_REQUESTS" in refused.error.message()
        held.cancelled = True
        held.wait()
        full.settle()


@pytest.mark.parametrize("error", [RuntimeError("no"), Panic("no"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")])
def test_a_tensor_that_cannot_be_read(model: Model, error: BaseException) -> None:
    class Broken(fakes.Tensor):
        def as_numpy(self) -> Any:
            raise error

    assert code(model.submit(Broken("text_input", None)).wait()) in (CODES.INTERNAL, CODES.INVALID_ARG)


@pytest.mark.parametrize("request_id", [RuntimeError("no"), "\ud800", "x" * 10**6, 7])
def test_ids_of_any_kind(model: Model, request_id: Any) -> None:
    model.engine.before_token = _raising(RuntimeError("a defect"))
    sender = model.submit(request_id=request_id).wait()
    assert code(sender) == CODES.INTERNAL
    assert len(sender.error.message()) < 300


def test_parameters_that_are_no_text(model: Model) -> None:
    """Triton's HTTP server hands on whatever bytes stand in a text. The answer was the codec's own sentence."""
    sender = model.submit(parameters='{"stop": "\udcff"}')
    sender.wait()
    assert code(sender) == CODES.INVALID_ARG
    assert sender.error.message() == "parameters: expected UTF-8, got byte 0xff at position 10 of their JSON"


@pytest.mark.parametrize("failures", [1, 2])
def test_a_response_that_cannot_be_sent(model: Model, failures: int) -> None:
    """The final response is tried again as an error; where that fails too, nobody is there to answer."""
    sender = Sender(failures=failures)
    model.submit(sender=sender)
    model.settle()
    assert sender.flags.count(1) == (1 if failures == 1 else 0)


def test_work_for_a_response_that_could_not_be_sent_is_stopped(model: Model) -> None:
    """Seen before: the engine went on to max_tokens for nobody."""

    async def slowly(number: int) -> None:
        await asyncio.sleep(0.005)

    model.engine.before_token = slowly
    model.submit(sender=Sender(failures=1), stream=True, parameters={"max_tokens": 100_000})
    model.settle()
    assert len(model.engine.aborted) == 1


def test_a_log_that_is_broken_keeps_nobody_from_an_answer(model: Model) -> None:
    model.log.broken = True
    model.engine.before_token = _raising(RuntimeError("a defect"))
    assert code(model.submit().wait()) == CODES.INTERNAL


def test_an_error_that_cannot_be_looked_at(model: Model) -> None:
    class UnprintableError(RuntimeError):
        def __str__(self) -> str:
            raise Panic("no text")

        __repr__ = __str__

    model.engine.explain = _raising(Panic("cannot explain"))  # type: ignore[method-assign]
    model.engine.before_token = _raising(UnprintableError())
    assert code(model.submit().wait()) == CODES.INTERNAL


def test_a_loop_that_has_ended() -> None:
    with Model(FakeEngine(TEXT_ONLY)) as model:
        base = model.base
        sender = model.submit().wait()
        model.settle()
        base.event_loop.call_soon_threadsafe(base.event_loop.stop)
        wait_until(lambda: not base.event_loop.is_running())
        base.event_loop.close()
        sender = model.submit()
        assert code(sender.wait()) == CODES.INTERNAL
        model.base.close = lambda: None  # type: ignore[method-assign]


def test_a_request_that_is_cancelled_before_it_has_begun(model: Model) -> None:
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(10)
        for task in asyncio.all_tasks(model.base.event_loop):
            task.cancel()

    model.base.event_loop.call_soon_threadsafe(block)
    assert blocked.wait(10)
    sender = model.submit()
    # Two turns: the first makes the task, which the second cancels before it runs.
    model.base.event_loop.call_soon_threadsafe(
        lambda: [task.cancel() for task in asyncio.all_tasks(model.base.event_loop)]
    )
    release.set()
    assert code(sender.wait()) == CODES.UNAVAILABLE


class TestOpenAI:
    """Errors go out in OpenAI's form; the rest is the same life."""

    @pytest.mark.parametrize(
        ("error", "status"), [(Panic("no"), 500), (RuntimeError("\ud800"), 500), (EngineError("\ud800"), 400)]
    )
    def test_whatever_the_application_raises_is_answered(self, model: Model, error: BaseException, status: int) -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            raise error

        model.service.runner._with.router.openai._service._application = application  # type: ignore[attr-defined]
        sender = model.submit(None, openai_request='{"path": "/v1/models"}').wait()
        response, flags = sender.sent[-1]
        outputs = {tensor.name(): tensor.as_numpy()[0] for tensor in response.output_tensors()}
        assert (flags, int(outputs["openai_status"])) == (1, status)
        assert json.loads(outputs["openai_response"])["error"]["code"] == status

    @pytest.mark.parametrize("text", ["", "[", "[]", '{"path": 1}', '{"path": "/v1/x", "headers": {"\\ud800": "x"}}'])
    def test_what_is_no_call(self, model: Model, text: str) -> None:
        sender = model.submit(None, openai_request=text).wait()
        assert sender.flags.count(1) == 1
