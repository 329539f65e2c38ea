"""An engine that has died is noticed with no request, and started again: what requests are told meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import fakes
from tests.support.fake_engine import FACTS, FakeEngine
from tests.support.service_harness import Model, wait_until
from vllm_custom.errors import UnavailableError
from vllm_custom.serving import engine_watch
from vllm_custom.serving.engine_watch import Tries

TEXT_ONLY = dataclasses.replace(FACTS, media_limits={})
CODES = fakes.TritonError
RESTART_SECONDS = 90.0
OPENAI = json.dumps({"path": "/v1/chat/completions", "body": {"model": "model"}})
LISTED = json.dumps({"path": "/v1/models", "method": "GET"})


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_watch, "_LOOK_SECONDS", 0.005)


class Restart:
    """Starts a fake engine again once it is let, or fails as often as it is to."""

    counts = counts_death = True
    seconds = RESTART_SECONDS

    def __init__(self, engine: FakeEngine, failures: int = 0, *, at_once: bool = False) -> None:
        self.engine = engine
        self.failures = failures
        self.tries = 0
        self.let = threading.Event()
        if at_once:
            self.let.set()

    def start(self) -> None:
        self.tries += 1
        assert self.let.wait(30)
        if self.tries <= self.failures:
            raise RuntimeError("no memory")
        self.engine.come_back()

    def cancel(self) -> None:
        self.let.set()


def serving(restart: Restart, **parameters: str) -> Model:
    parameters = {"ENGINE_RESTART_BACKOFF_SECONDS": "0", **parameters}
    return Model(restart.engine, restart=restart, **parameters)


def message(sender: Any) -> str:
    sender.wait()
    return str(sender.error.message()) if sender.error is not None else ""


def test_a_death_is_noticed_with_no_request_and_the_model_serves_again() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY))
    with serving(restart) as model:
        assert model.service.ready
        restart.engine.die()
        assert not model.service.ready, "at once"
        wait_until(lambda: restart.tries == 1)
        refused = model.submit().wait()
        assert refused.error.code() == CODES.UNAVAILABLE
        assert "is being started again; try again in 90 seconds" in refused.error.message()
        restart.let.set()
        wait_until(lambda: model.service.ready)
        assert model.submit().wait().error is None
        assert [line for line in model.log.lines if "runs again" in line]
        model.settle()


def test_requests_under_way_fail_at_once() -> None:
    reached = threading.Event()

    async def note(number: int) -> None:
        reached.set()

    restart = Restart(FakeEngine(TEXT_ONLY, before_token=note))
    with serving(restart) as model:
        sender = model.submit(parameters={"max_tokens": 1_000_000}, stream=True)
        assert reached.wait(30)
        restart.engine.die()
        assert "has died" in message(sender)
        model.settle()


def test_answers_to_openais_clients_say_when_to_come_back() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY))
    with serving(restart) as model:
        restart.engine.die()
        for call in (OPENAI, LISTED):
            head = head_of(model, call)
            assert (head["status"], head["retry-after"], head["x-engine-state"]) == (503, "90", "restarting")
        model.settle()


def test_a_dead_engine_does_not_look_like_one_that_is_busy() -> None:
    with Model(FakeEngine(TEXT_ONLY, died=True)) as model:
        head = head_of(model, LISTED)
        assert (head["status"], head["x-engine-state"]) == (503, "dead")
        assert "retry-after" not in head
        model.settle()


def head_of(model: Model, call: str) -> dict[str, Any]:
    """Status and headers of the answer to a call of OpenAI's API."""
    sender = model.submit(text=None, openai_request=call).wait()
    outputs = {tensor.name(): tensor.as_numpy()[0] for tensor in sender.sent[0][0].output_tensors()}
    return {"status": int(outputs["openai_status"]), **json.loads(outputs["openai_headers"])}


def test_a_request_waits_where_it_may() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY))
    with serving(restart, ENGINE_RESTART_WAIT_SECONDS="30") as model:
        restart.engine.die()
        waiting = model.submit()
        assert head_of(model, LISTED)["status"] == 503, "what asks how the model is does not wait"
        assert not waiting.done.is_set()
        restart.let.set()
        assert waiting.wait().error is None
        model.settle()


def test_tries_are_bounded_and_what_waits_is_refused_then() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY), failures=100)
    with serving(restart, ENGINE_RESTARTS="2", ENGINE_RESTART_WAIT_SECONDS="600") as model:
        restart.engine.die()
        waiting = model.submit()
        restart.let.set()
        assert message(waiting) == "the vLLM engine has died; the model has to be loaded again"
        assert restart.tries == 2
        assert message(model.submit()) == "the vLLM engine has died; the model has to be loaded again"
        assert len([line for line in model.log.lines if "could not be started again: no memory" in line]) == 2
        model.settle()


def test_a_try_that_fails_is_followed_by_another() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY), failures=1, at_once=True)
    with serving(restart) as model:
        restart.engine.die()
        wait_until(lambda: model.service.ready and restart.tries == 2)
        restart.engine.die()
        wait_until(lambda: model.service.ready and restart.tries == 3)
        model.settle()


def test_without_restarts_it_is_said_that_the_model_has_to_be_loaded_again() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY), at_once=True)
    with serving(restart, ENGINE_RESTARTS="0") as model:
        restart.engine.die()
        wait_until(lambda: "loaded again" in message(model.submit()))
        assert restart.tries == 0
        model.settle()


def test_an_engine_that_stands_still_counts_as_dead() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY), at_once=True)
    with serving(restart, ENGINE_STALL_SECONDS="1") as model:
        restart.engine.still = True
        wait_until(lambda: restart.tries == 1 and model.service.ready)
        wait_until(lambda: any("stands still" in line for line in model.log.lines))
        model.settle()


def test_an_engine_that_steps_lives() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY), at_once=True)
    with serving(restart, ENGINE_STALL_SECONDS="1") as model:
        steps: list[int] = []
        step = restart.engine.step

        async def counted() -> None:
            steps.append(1)
            await step()

        restart.engine.step = counted  # type: ignore[method-assign]
        wait_until(lambda: len(steps) > 2)
        assert restart.tries == 0
        model.settle()


@pytest.mark.parametrize("can", [True, False])
def test_the_official_health_check_unloads_where_that_is_possible(can: bool) -> None:
    """Elsewhere the log says so, and the engine is started again."""

    def refuse(name: str) -> None:
        raise RuntimeError("explicit model load / unload is not allowed")

    restart = Restart(FakeEngine(TEXT_ONLY), at_once=True)
    unload: Callable[[str], object] | None = None if can else refuse
    with Model(restart.engine, restart=restart, unload=unload, ENABLE_VLLM_HEALTH_CHECK="true") as model:
        restart.engine.die()
        if can:
            wait_until(lambda: model.unloads == ["model"])
            assert message(model.submit()) == "Model is unavailable due to unhealthy vLLM engine"
            assert restart.tries == 0
        else:
            wait_until(lambda: restart.tries == 1 and model.service.ready)
            assert [line for line in model.log.lines if "--model-control-mode=explicit" in line]
        model.settle()


def test_the_official_health_check_asks_the_engine_with_each_request() -> None:
    """The official backend's own tests have the second question answered with an error, by an engine that lives."""
    engine = FakeEngine(TEXT_ONLY)
    answers = iter([None, UnavailableError("simulated")])

    async def check_health() -> None:
        if error := next(answers):
            raise error

    engine.check_health = check_health  # type: ignore[method-assign]
    with Model(engine, ENABLE_VLLM_HEALTH_CHECK="true") as model:
        assert model.submit().wait().error is None
        assert message(model.submit()) == "Model is unavailable due to unhealthy vLLM engine"
        assert model.unloads == ["model"], "it is unloaded before the answer"
        assert not model.service.ready
        model.settle()


def test_without_the_health_check_nobody_asks_the_engine() -> None:
    engine = FakeEngine(TEXT_ONLY)

    async def check_health() -> None:
        raise UnavailableError("simulated")

    engine.check_health = check_health  # type: ignore[method-assign]
    with Model(engine) as model:
        assert model.submit().wait().error is None
        model.settle()


def test_a_model_that_is_unloaded_meanwhile_starts_nothing() -> None:
    restart = Restart(FakeEngine(TEXT_ONLY), failures=100)
    with serving(restart, ENGINE_RESTART_BACKOFF_SECONDS="3600") as model:
        restart.engine.die()
        wait_until(lambda: restart.tries == 1)
        model.service.stop_watching_engine()
        assert restart.tries == 1


def test_an_engine_that_makes_way_finishes_what_it_has_and_is_not_started_again() -> None:
    begun, go_on = threading.Event(), asyncio.Event()

    async def hold(number: int) -> None:
        begun.set()
        await go_on.wait()

    restart = Restart(FakeEngine(TEXT_ONLY, before_token=hold), at_once=True)
    with serving(restart) as model:
        sender = model.submit(parameters={"max_tokens": 3}, stream=True)
        assert begun.wait(30)
        model.service.make_way()
        assert not model.service.ready
        assert "is being loaded again" in message(model.submit())
        assert head_of(model, OPENAI)["status"] == 503
        model.base.event_loop.call_soon_threadsafe(go_on.set)
        assert sender.wait().error is None
        restart.engine.die()
        model.settle()
        assert restart.tries == 0
        assert "is being loaded again" in message(model.submit())


def test_pauses_double_and_tries_come_back_after_an_hour() -> None:
    now = [0.0]
    tries = Tries(3, 5.0, clock=lambda: now[0])
    assert list(tries.pauses()) == [0.0, 5.0, 10.0]
    assert list(tries.pauses()) == []
    now[0] = 3601.0
    assert next(tries.pauses()) == pytest.approx(10.0), "the last two count still"


def test_deaths_far_apart_are_tried_at_once() -> None:
    now = [0.0]
    tries = Tries(1, 5.0, clock=lambda: now[0])
    for _ in range(3):
        assert list(tries.pauses()) == [0.0]
        now[0] += 4000.0
