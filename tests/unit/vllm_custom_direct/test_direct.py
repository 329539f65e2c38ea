"""Requests past Triton: HTTP's part, the model's rules and limits, and the application, put together."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.audio import sound, tone
from tests.support.direct_harness import Direct, answering
from tests.support.fake_engine import FACTS, TEXT_ONLY, FakeEngine
from tests.support.forms import form
from vllm_custom.engine import ModelFacts
from vllm_custom.engine.background import BEGUN
from vllm_custom.engine.host import Share
from vllm_custom.engine.host.board import make


def engine(application: Any, facts: ModelFacts = TEXT_ONLY) -> FakeEngine:
    made = FakeEngine(facts)
    made.application = application
    return made


class Waiting:
    """Serves as vLLM's handlers do; counts what works for its requests."""

    def __init__(self) -> None:
        self.working = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        work, gone = asyncio.create_task(self._work()), asyncio.create_task(receive())
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        for task in (work, gone):
            task.cancel()

    async def _work(self) -> None:
        self.working += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.working -= 1


@pytest.fixture
async def direct() -> AsyncIterator[Any]:
    made: list[Direct] = []

    async def start(models: dict[str, FakeEngine], parameters: dict[str, str] | None = None, **options: Any) -> Direct:
        server = Direct(models, **options)
        server.parameters = parameters or {}
        made.append(server)
        await server.models.look()
        return server

    yield start
    for server in made:
        await server.models.close(0.1)


async def until(condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError


async def test_a_request_reaches_the_application_as_it_was_sent(direct: Any) -> None:
    server = await direct({"m": engine(answering("yes"))})
    reply = await server.post({"model": "m", "prompt": "a"}, x_request_id="7", cookie="secret", traceparent="00-1")
    assert (reply.status, reply.complete) == (200, True)
    assert json.loads(reply.json["body"]) == {"model": "m", "prompt": "a"}
    assert reply.json["path"] == "/v1/completions"
    assert reply.json["headers"] == {
        "content-type": "application/json",
        "content-length": "26",
        "x-request-id": "7",
        "traceparent": "00-1",
    }
    assert reply.headers["x-request-id"] == "7"


async def test_a_form_reaches_the_application_with_its_file(direct: Any) -> None:
    got: list[bytes] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        got.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    server = await direct({"m": engine(application, FACTS)}, max_body_values=10)
    content_type, body = form(sound(tone()), ("model", "m"), ("prompt", "a,b,c,d,e,f,g,h,i,j,k,l"))
    reply = await server.post(body, "/v1/audio/transcriptions", content_type=content_type)
    assert reply.status == 200
    assert b"RIFF" in got[0]
    reply = await server.post(body, content_type=content_type)
    assert reply.status == 413, "other routes take no forms"


async def test_a_stream_passes_event_by_event(direct: Any) -> None:
    server = await direct({"m": engine(answering("e", events=3))})
    reply = await server.post({"model": "m", "stream": True})
    assert reply.body == b"data: e 0\n\ndata: e 1\n\ndata: e 2\n\n"
    assert reply.complete


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "m", "chat_template": "x"}, 400, "chat_template"),
        ({"model": "m", "n": 100_000}, 400, "MAX_N"),
        (b'{"model": "m", "a": "\\ud800"}', 400, "body: expected JSON (the lone surrogate"),
        (b'{"model": "m", "a": "\xe4"}', 400, "which is not UTF-8"),
        (b"[" + b"1," * 2000 + b"1]", 413, "--max-body-values"),
        (b" " * 5000, 413, "at most 4096 bytes"),
    ],
    ids=["operator's", "limit", "surrogate", "Latin-1", "values", "bytes"],
)
async def test_what_is_refused(direct: Any, body: Any, status: int, message: str) -> None:
    server = await direct({"m": engine(answering("yes"))}, max_body_values=1000, max_body_bytes=4096)
    reply = await server.post(body)
    assert (reply.status, reply.json["error"]["code"]) == (status, status)
    assert message in reply.json["error"]["message"]


async def test_other_routes_are_not_found_and_other_methods_not_allowed(direct: Any) -> None:
    server = await direct({"m": engine(answering("yes"))})
    reply = await server.call("POST", "/v1/load_lora_adapter", {"model": "m"})
    assert (reply.status, reply.json) == (404, {"detail": "Not Found"})
    assert (await server.call("DELETE", "/v1/completions")).status == 405


async def test_keys_are_asked_for_but_not_for_health(direct: Any) -> None:
    server = await direct({"m": engine(answering("yes"))}, api_keys=frozenset({"k"}))
    assert (await server.post({"model": "m"})).status == 401
    assert (await server.post({"model": "m"}, authorization="Bearer k")).status == 200
    assert (await server.call("GET", "/health")).status == 200


async def test_models_are_found_by_name(direct: Any) -> None:
    server = await direct({"a": engine(answering("of a")), "b": engine(answering("of b"))})
    assert [(await server.post({"model": name})).json["text"] for name in "ab"] == ["of a", "of b"]
    unknown, unnamed = await server.post({"model": "c"}), await server.post({})
    assert (unknown.status, unnamed.status) == (404, 400)
    assert "a, b" in unknown.json["error"]["message"]
    listed = await server.call("GET", "/v1/models")
    assert [card["id"] for card in listed.json["data"]] == ["of a", "of b"]
    assert (await server.call("GET", "/v1/models/of b")).json == {"id": "of b"}
    assert (await server.call("GET", "/v1/models/none")).status == 404


async def test_a_model_that_cannot_list_itself_does_not_hide_the_others(direct: Any) -> None:
    server = await direct({"a": engine(None), "b": engine(answering("of b"))})
    listed = await server.call("GET", "/v1/models")
    assert (listed.status, [card["id"] for card in listed.json["data"]]) == (200, ["of b"])


async def test_the_only_model_gets_what_names_none(direct: Any) -> None:
    server = await direct({"m": engine(answering("yes"))})
    for body in ({}, {"model": ""}, {"model": "m"}, b"no json"):
        assert (await server.post(body)).status == 200, "its application refuses what is wrong"
    for body in ({"model": "other"}, {"model": "other", "stream": True}):
        unknown = await server.post(body)
        assert (unknown.status, unknown.json["error"]["type"]) == (404, "NotFoundError")


async def test_a_model_that_is_being_unloaded_is_unavailable(direct: Any) -> None:
    application = Waiting()
    server = await direct({"m": engine(application), "other": engine(answering("yes"))})
    call = server.begin("POST", "/v1/completions", {"model": "m", "stream": True})
    await until(lambda: application.working == 1)
    del server.offers[Path("/m")]
    await server.models.look()
    assert (await server.post({"model": "m"})).status == 503
    call.gone.set()
    await call.task
    await until(lambda: server.left == ["m"])
    await until(lambda: not server.models.leaving_names)
    assert (await server.post({"model": "m"})).status == 404


@contextlib.asynccontextmanager
async def tritonserver(index: Any) -> AsyncIterator[str]:
    """The HTTP service of one, with this index of its repository; its URL."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(index)

    application = web.Application()
    application.router.add_post("/v2/repository/index", answer)
    async with TestServer(application) as server:
        yield f"http://{server.host}:{server.port}"


async def test_a_model_that_is_being_loaded_or_unloaded_is_unavailable(direct: Any) -> None:
    states = {"comes": "LOADING", "goes": "UNLOADING", "gone": "UNAVAILABLE", "elsewhere": "READY"}
    index = [{"name": name, "version": "1", "state": state} for name, state in states.items()] + [{"name": "never"}]
    async with tritonserver(index) as url:
        server = await direct({"m": engine(answering("yes"))}, triton_http=url)
        found = {name: (await server.post({"model": name})).status for name in (*states, "never", "m")}
    assert found == {"comes": 503, "goes": 503, "gone": 404, "elsewhere": 404, "never": 404, "m": 200}


@pytest.mark.parametrize("index", [None, {"error": "restricted"}, ["x"]])
async def test_a_tritonserver_that_does_not_say_makes_it_unknown(direct: Any, index: Any) -> None:
    async with tritonserver(index) as url:
        server = await direct({"m": engine(answering("yes"))}, triton_http=url)
        assert (await server.post({"model": "other"})).status == 404
    server = await direct({"m": engine(answering("yes"))}, triton_http="http://127.0.0.1:1")
    assert (await server.post({"model": "other"})).status == 404


async def test_an_answer_in_one_piece_has_a_length_and_a_path_may_end_with_a_slash(direct: Any) -> None:
    server = await direct({"m": engine(answering("yes"))})
    reply = await server.post({"model": "m"}, "/v1/completions/")
    assert (reply.status, reply.json["path"]) == (200, "/v1/completions")
    assert reply.headers["content-length"] == str(len(reply.body))
    assert (await server.post({}, "/health")).status == 405


async def test_a_stream_that_the_end_of_the_server_cuts_says_so(direct: Any) -> None:
    application = Waiting()
    server = await direct({"m": engine(application)})
    call = server.begin("POST", "/v1/completions", {"model": "m", "stream": True})
    await until(lambda: application.working == 1)
    call.task.cancel()
    await call.task
    assert (call.reply.status, call.reply.complete) == (200, True)
    event, done = call.reply.body.decode().removesuffix("\n\n").split("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"]["message"] == "the server ends"
    assert done == "data: [DONE]"


async def test_a_client_that_leaves_ends_its_work(direct: Any) -> None:
    application = Waiting()
    server = await direct({"m": engine(application)}, {"MAX_INFLIGHT_REQUESTS": "1"})
    call = server.begin("POST", "/v1/completions", {"model": "m", "stream": True})
    await until(lambda: application.working == 1)
    call.gone.set()
    await call.task
    assert application.working == 0
    assert "vllm_custom_frontend_disconnects_total 1.0" in server.metrics.text().decode()
    assert 'status="499"' in server.metrics.text().decode()
    server.engines["m"].application = answering("yes")


async def test_a_request_whose_time_is_over_ends_with_an_error(direct: Any) -> None:
    application = Waiting()
    server = await direct({"m": engine(application)}, request_timeout_seconds=0.2)
    reply = await server.post({"model": "m", "stream": True})
    assert application.working == 0
    assert b'"type": "TimeoutError"' in reply.body
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert reply.complete


async def test_the_limit_on_requests_is_that_of_all_processes(direct: Any, tmp_path: Any) -> None:
    make(tmp_path / "board")
    connection = SimpleNamespace(folder=tmp_path, client=2, leave=lambda: None)
    other = Share(SimpleNamespace(folder=tmp_path, client=1, leave=lambda: None), 2)  # type: ignore[arg-type]
    application = Waiting()
    server = Direct({"m": engine(application)})
    server.parameters = {"MAX_INFLIGHT_REQUESTS": "2"}
    server.share = Share(connection, 1)  # type: ignore[arg-type]
    await server.models.look()
    assert other.sequences.take(1, 2)
    call = server.begin("POST", "/v1/completions", {"model": "m", "stream": True})
    await until(lambda: application.working == 1)
    refused = await server.post({"model": "m"})
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "MAX_INFLIGHT_REQUESTS is 2" in refused.json["error"]["message"]
    assert not other.sequences.take(1, 2)
    call.gone.set()
    await call.task
    assert other.sequences.take(1, 2)
    await server.models.close(0.1)
    other.close()


async def test_a_dead_engine_is_told_and_left(direct: Any) -> None:
    server = await direct({"m": engine(answering("yes"))})
    assert (await server.call("GET", "/health")).status == 200
    server.engines["m"].die()
    assert (await server.call("GET", "/health")).status == 503
    assert (await server.post({"model": "m"})).status == 503
    del server.offers[next(iter(server.offers))]
    await server.models.look()
    await until(lambda: server.left == ["m"])


async def test_a_defect_tells_nothing_of_itself(direct: Any) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("/secret/path")

    server = await direct({"m": engine(broken)})
    reply = await server.post({"model": "m"}, x_request_id="17")
    assert (reply.status, reply.json["error"]["type"]) == (500, "InternalServerError")
    assert "request id 17" in reply.json["error"]["message"]
    assert "secret" not in reply.body.decode()


async def test_background_work_takes_one_place(direct: Any) -> None:
    """Its request took another, so that the last place could not be had."""
    end = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun = BEGUN.get()
        if begun is not None:
            begun.append(asyncio.ensure_future(end.wait()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    server = await direct({"m": engine(application)}, {"MAX_INFLIGHT_REQUESTS": "2"})
    for status in (200, 200, 503):
        reply = await server.post({"model": "m", "background": True}, "/v1/responses")
        assert reply.status == status
    assert (await server.call("GET", "/v1/responses/resp_1")).status == 200
    assert (await server.post({"model": "m", "input": "x"}, "/v1/responses")).status == 503
    end.set()
    (model,) = server.models.usable
    await until(lambda: model._common.admission.inside == 0)
    assert (await server.post({"model": "m", "input": "x"}, "/v1/responses")).status == 200
