"""openai_request: its envelope, its media, the ASGI call, and what goes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import fakes
import numpy as np
import pytest

from vllm_custom import compat
from vllm_custom.config import Settings
from vllm_custom.contract.routes import OPENAI_PATHS
from vllm_custom.errors import (
    BackendError,
    ConfigError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RefusedMediaError,
    RequestCancelledError,
    UnavailableError,
    UnsupportedError,
)
from vllm_custom.media import HandleTable, MediaElement
from vllm_custom.openai.answer import OpenAIStream, ResponsePiece, error_document
from vllm_custom.openai.asgi import call_application
from vllm_custom.openai.envelope import OpenAICall, check_policy, parse_openai_request
from vllm_custom.openai.media import find_media
from vllm_custom.openai.models import AdapterOfRequest, _in_use
from vllm_custom.openai.service import OpenAIService
from vllm_custom.responses import SenderPool
from vllm_custom.responses.build import ResponseBuilder


def parse(text: str, parameters: str = "{}", **others: Any) -> OpenAICall:
    tensors = {name: np.array([value], dtype=object) for name, value in {"openai_request": text, **others}.items()}
    return parse_openai_request(tensors, parameters)


def test_an_envelope() -> None:
    call = parse('{"path": "/tokenize", "body": {"model": "a", "stream": true}, "headers": {"X-Request-Id": "7"}}')
    assert call == OpenAICall("/tokenize", "POST", {"model": "a", "stream": True}, {"x-request-id": "7"})
    assert (call.model, call.streamed) == ("a", True)
    assert parse('{"path": "/version"}').method == "GET"
    assert not parse('{"path": "/version"}', stream=True).streamed
    assert parse('{"path": "/version", "body": [1]}').body == "[1]"
    assert parse('{"path": "/version", "body": "{"}').body == "{"


def test_timeout_and_trace_come_as_parameters() -> None:
    call = parse('{"path": "/version", "headers": {"tracestate": "own"}}', '{"timeout": 5, "traceparent": "00-1"}')
    assert (call.timeout, call.headers) == (5, {"traceparent": "00-1", "tracestate": "own"})


def test_headers_of_a_connection_or_with_secrets_are_dropped() -> None:
    given = {"Authorization": "Bearer x", "Cookie": "a", "Host": "b", "Content-Length": "9", "accept": "*/*"}
    assert parse(json.dumps({"path": "/version", "headers": given})).headers == {"accept": "*/*"}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "openai_request"),
        ("[]", "openai_request"),
        ("[" * 100_000, "openai_request"),
        ("{}", "openai_request.path"),
        ('{"path": "version"}', "openai_request.path"),
        ('{"path": "/version", "method": "DELETE"}', "openai_request.method"),
        ('{"path": "/version", "headers": []}', "openai_request.headers"),
        ('{"path": "/version", "headers": {"a": "b\\r\\nc: d"}}', "openai_request.headers"),
        ('{"path": "/version", "headers": {"\\u00e4": "b"}}', "openai_request.headers"),
        ('{"path": "/version", "port": 1}', "openai_request"),
    ],
)
def test_wrong_envelopes_name_the_field(text: str, field: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: expected"):
        parse(text)


@pytest.mark.parametrize("parameters", ['{"max_tokens": 1}', '{"priority": 1}', '{"guided_regex": "a"}'])
def test_other_parameters_are_refused(parameters: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse('{"path": "/version"}', parameters)
    with pytest.raises(InvalidRequestError, match="stands alone"):
        parse('{"path": "/version"}', text_input="a")


def test_listed_paths_only() -> None:
    assert all(OpenAICall(path, "POST", {}).is_allowed() for path in OPENAI_PATHS)
    for path in ("/v1/load_lora_adapter", "/v1/completions/", "/V1/models", "//version", "/sleep"):
        assert not OpenAICall(path, "POST", {}).is_allowed()
        assert OpenAICall(path, "POST", {}).is_allowed({path})


def test_a_stream_needs_the_decoupled_policy() -> None:
    call = OpenAICall("/v1/completions", "POST", {"stream": True})
    check_policy(call, decoupled=True)
    with pytest.raises(UnsupportedError, match="decoupled"):
        check_policy(call, decoupled=False)


# Media


def test_media_are_found_in_order_and_lose_their_ids() -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "text"},
            {"content": [{"type": "text", "text": "a", "uuid": "u"}, {"image_url": "http://a", "uuid": "u"}]},
            {"content": [{"type": "video_url", "video_url": {"url": "http://b", "x": 1}}, "plain", 5]},
            "nonsense",
        ],
        "input": [{"content": [{"type": "input_image", "image_url": "http://c"}]}, {"content": None}],
    }
    found = find_media(body)
    assert [(item.element.modality, item.element.field, item.element.raw) for item in found] == [
        ("image", "messages[1].content[1].image_url", b"http://a"),
        ("video", "messages[2].content[0].video_url", b"http://b"),
        ("image", "input[0].content[0].image_url", b"http://c"),
    ]
    for number, item in enumerate(found):
        item.holder[item.key] = f"handle-{number}"
    assert body["messages"][1]["content"] == [{"type": "text", "text": "a"}, {"image_url": "handle-0"}]
    assert body["messages"][2]["content"][0]["video_url"] == {"url": "handle-1", "x": 1}
    assert body["input"][0]["content"][0] == {"type": "input_image", "image_url": "handle-2"}


def test_sound_in_openais_form_becomes_a_url() -> None:
    body = {"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}]}
    (found,) = find_media(body)
    assert found.element == MediaElement("audio", "messages[0].content[0].input_audio.data", b"AAAA")
    found.holder[found.key] = "handle"
    assert body == {"messages": [{"content": [{"type": "audio_url", "audio_url": {"url": "handle"}}]}]}


@pytest.mark.parametrize("body", [{}, {"messages": None, "input": "text"}, {"messages": [{"content": {"a": 1}}]}])
def test_bodies_without_media(body: dict[str, Any]) -> None:
    assert find_media(body) == []


async def test_promised_media_come_when_they_are_asked_for() -> None:
    table, asked = HandleTable(), []

    async def get(index: int) -> str:
        asked.append(index)
        if index == 1:
            raise InvalidRequestError("no picture")
        return f"medium {index}"

    with table.promise(get, 2) as (first, second):
        assert asked == []
        assert await table.take_async(first) == "medium 0"
        with pytest.raises(RefusedMediaError, match="no picture") as refused:
            await table.take_async(second)
        assert isinstance(refused.value, ValueError)
        with pytest.raises(RefusedMediaError, match="media rules"):
            table.take(first)
    with pytest.raises(RefusedMediaError, match="media rules"):
        await table.take_async(first)


def test_a_request_sees_the_adapter_that_it_has_taken_only() -> None:
    adapters = AdapterOfRequest()
    assert ("zh" in adapters, len(adapters), list(adapters)) == (False, 0, [])
    token = _in_use.set(("zh", "request"))
    try:
        assert (adapters["zh"], "caps" in adapters, dict(adapters)) == ("request", False, {"zh": "request"})
    finally:
        _in_use.reset(token)


# Building


def settings(**parameters: str) -> Settings:
    given = {name: {"string_value": value} for name, value in parameters.items()}
    return Settings.from_model_config({"name": "m", "parameters": given})


async def build(log: list[str], **parameters: str) -> OpenAIService:
    unused: Any = None
    return await OpenAIService.build(unused, settings(**parameters), None, unused, unused, unused, log.append)


@pytest.fixture
def no_application(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> Any:
        raise RuntimeError("no tokenizer")

    monkeypatch.setattr("vllm_custom.compat.build_openai_application", refuse)


@pytest.mark.usefixtures("no_application")
async def test_a_model_serves_without_the_application_where_vllm_cannot_build_it() -> None:
    log: list[str] = []
    service = await build(log)
    assert "no tokenizer" in log[0]
    with pytest.raises(UnsupportedError, match="no OpenAI application"):
        await service.serve(OpenAICall("/version", "GET", None), stream=None, request_id="1")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_application")
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"TOOL_CALL_PARSER": "hermes"}, "no tokenizer"),
        ({"OPENAI_ARGS": '{"response_role": "bot"}'}, "no tokenizer"),
        ({"OPENAI_ARGS": '{"api_key": "x"}'}, "unknown argument 'api_key'"),
        ({"ENABLE_AUTO_TOOL_CHOICE": "true"}, "needs TOOL_CALL_PARSER"),
    ],
)
async def test_wrong_parameters_stop_the_load(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await build([], **parameters)


@pytest.mark.parametrize("parameters", [{"OPENAI_ARGS": "[1]"}, {"OPENAI_ARGS": "{"}, {"OPENAI_PATHS": "v1/messages"}])
def test_parameters_of_another_form_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"^config.pbtxt: parameter {next(iter(parameters))}: expected"):
        settings(**parameters)


@pytest.mark.filterwarnings("ignore")  # of torch, when it is imported
def test_parsers_that_vllm_does_not_have_are_refused() -> None:
    compat.check_parsers("hermes", "qwen3")
    with pytest.raises(ConfigError, match=r"TOOL_CALL_PARSER: expected one of .*hermes"):
        compat.check_parsers("zeus", "")
    with pytest.raises(ConfigError, match=r"REASONING_PARSER: expected one of .*qwen3"):
        compat.check_parsers("", "zeus")


# The call

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Kept:
    """A sink that keeps what comes."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.parts.append((status, headers))

    def body(self, chunk: bytes, *, more: bool) -> None:
        self.parts.append((chunk, more))


async def _echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    message = await receive()
    headers = [(b"Content-Type", b"text/plain"), (b"content-length", b"9")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    for chunk in (scope["path"].encode(), message["body"]):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})


async def test_a_call_is_answered_piece_by_piece() -> None:
    kept = Kept()
    await call_application(_echo, "POST", "/a", {}, b"body", kept)
    assert kept.parts == [(201, {"content-type": "text/plain"}), (b"/a", True), (b"body", True), (b"", False)]


async def test_an_error_of_the_application_is_raised() -> None:
    async def broken(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await call_application(broken, "GET", "/", {}, b"", Kept())


async def test_who_leaves_is_seen_by_the_application_and_gets_no_more() -> None:
    seen = []

    async def waits(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        started.set()
        seen.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    started, kept = asyncio.Event(), Kept()
    call = asyncio.ensure_future(call_application(waits, "GET", "/", {}, b"", kept))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (seen, kept.parts) == (["http.disconnect"], [])


async def test_an_application_that_does_not_listen_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_custom.openai.asgi._FAREWELL_SECONDS", 0.05)
    ended = []

    async def deaf(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    started = asyncio.Event()
    call = asyncio.ensure_future(call_application(deaf, "GET", "/", {}, b"", Kept()))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended == [True]


# What goes back


def test_pieces_that_wait_become_one() -> None:
    piece = ResponsePiece([b"data: 1\n\n"], 200, {"content-type": "text/event-stream"})
    piece.add(ResponsePiece([b"data: 2\n\n"]))
    arrays = piece.arrays(frozenset())
    assert arrays["openai_response"].tolist() == [b"data: 1\n\ndata: 2\n\n"]
    assert (arrays["openai_status"].tolist(), arrays["openai_status"].dtype) == ([200], np.int32)
    assert json.loads(arrays["openai_headers"][0]) == {"content-type": "text/event-stream"}
    assert set(ResponsePiece([b"x"]).arrays(frozenset())) == {"openai_response"}, "what follows has a body only"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequestError("a"), 400, "BadRequestError"),
        (RefusedMediaError("a"), 400, "BadRequestError"),
        (NotFoundError("a"), 404, "NotFoundError"),
        (UnsupportedError("a"), 501, "NotImplementedError"),
        (UnavailableError("a"), 503, "ServiceUnavailableError"),
        (DeadlineExceededError("a"), 504, "TimeoutError"),
        (RequestCancelledError("a"), 499, "CancelledError"),
        (BackendError("ä"), 500, "InternalServerError"),
    ],
)
def test_errors_in_openais_form(error: BackendError, status: int, kind: str) -> None:
    content = {"message": str(error), "type": kind, "param": None, "code": status}
    assert (error_document(error)[0], json.loads(error_document(error)[1])) == (status, {"error": content})


def _answered(stream: OpenAIStream, status: int) -> None:
    stream.start(status, {"content-type": "application/json"})
    stream.body(b"{}", more=False)


def _broken(stream: OpenAIStream) -> None:
    stream.start(200, {"content-type": "text/event-stream"})
    stream.body(b"data: 1\n\n", more=True)
    stream.fail(UnavailableError("gone"))


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda stream: _answered(stream, 200), None),
        (lambda stream: _answered(stream, 404), "NOT_FOUND"),
        (lambda stream: _answered(stream, 422), "INVALID_ARG"),
        (lambda stream: _answered(stream, 500), "INTERNAL"),
        (lambda stream: stream.fail(UnsupportedError("no")), "UNSUPPORTED"),
        (_broken, "UNAVAILABLE"),
    ],
)
def test_what_an_answer_is_counted_as(act: Callable[[OpenAIStream], None], code: str | None) -> None:
    outcomes: list[BackendError | None] = []
    pool = SenderPool(ResponseBuilder(fakes.pb_utils, frozenset({"openai_response"}), batched=False), fakes.Log(), 1)
    act(OpenAIStream(pool, fakes.ResponseSender(), on_done=outcomes.append))
    pool.close()
    assert [None if error is None else error.triton_code for error in outcomes] == [code]
