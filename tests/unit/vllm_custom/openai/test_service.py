"""openai_request: its envelope, its media, the ASGI call, and what goes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support import fakes
from tests.support.fake_engine import FakeEngine
from vllm_custom.contract.routes import OPENAI_PATHS
from vllm_custom.contract.settings import Settings
from vllm_custom.engine.vllm import check_parsers
from vllm_custom.engine.vllm.openai import _LoraRequests, _serve_adapters
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
    invalid,
)
from vllm_custom.handlers import Incoming, OpenAIHandler, Parsed
from vllm_custom.lora import LoraAdapters
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.openai.asgi import call_application
from vllm_custom.openai.envelope import OpenAICall, parse_openai_request
from vllm_custom.openai.media import find_media, media_by_handle
from vllm_custom.openai.models import RequestAdapters
from vllm_custom.openai.response import OpenAIResponder, ResponseChunk, error_document
from vllm_custom.openai.service import OpenAIService
from vllm_custom.request import ClientRules
from vllm_custom.triton.responses import ResponseBuilder
from vllm_custom.triton.sender import ResponseStream, SenderPool


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


def test_trace_context_that_is_long_or_odd_goes_no_further() -> None:
    headers = {"traceparent": "00-1", "tracestate": f"a{' ' * 60_000}b"}
    assert parse(json.dumps({"path": "/version", "headers": headers})).headers == {"traceparent": "00-1"}


def test_the_id_of_a_request_is_cut_down_since_each_piece_of_an_answer_repeats_it() -> None:
    headers = {"X-Request-Id": "x" * 60_000}
    assert parse(json.dumps({"path": "/version", "headers": headers})).headers == {"x-request-id": "x" * 128}


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
        (json.dumps({"path": "/version", "headers": {"a": "b" * 10**6}}), "openai_request.headers"),
        (json.dumps({"path": "/version", "headers": {f"a{i}": "b" for i in range(101)}}), "openai_request.headers"),
    ],
)
def test_wrong_envelopes_name_the_field(text: str, field: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}: expected"):
        parse(text)


@pytest.mark.parametrize("parameters", ['{"max_tokens": 1}', '{"priority": 1}', '{"guided_regex": "a"}'])
def test_other_parameters_are_refused(parameters: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse('{"path": "/version"}', parameters)
    with pytest.raises(
        InvalidRequestError, match="openai_request: cannot be combined with other inputs; got text_input"
    ):
        parse('{"path": "/version"}', text_input="a")


def test_listed_paths_only() -> None:
    assert all(OpenAICall(path.replace("{id}", "resp_1"), "POST", {}).is_allowed() for path in OPENAI_PATHS)
    for path in ("/v1/load_lora_adapter", "/v1/completions/", "/V1/models", "//version", "/sleep"):
        assert not OpenAICall(path, "POST", {}).is_allowed()
        assert OpenAICall(path, "POST", {}).is_allowed({path})


def handled(body: Any, *, rows: int = 1, decoupled: bool = True, parameters: str = "{}", timeout_us: int = 0) -> Parsed:
    """What the handler of a model with batches reads."""
    envelope = json.dumps({"path": "/v1/completions", "body": body})
    unused: Any = None
    handler = OpenAIHandler(unused, ClientRules(), decoupled=decoupled, batched=True)
    tensors = {"openai_request": np.array([[envelope]] * rows, dtype=object)}
    return handler.parse(Incoming(tensors, parameters, timeout_us))


def test_a_stream_needs_the_decoupled_policy() -> None:
    assert handled({"stream": True}).call == OpenAICall("/v1/completions", "POST", {"stream": True})
    assert not handled({"stream": False}, decoupled=False).call.streamed


@pytest.mark.parametrize(
    ("named", "status"),
    [({"model": "gone"}, 404), ({"model": "zh"}, 501), ({"model": ""}, 501), ({"model": 7}, 501), ({}, 501)],
)
async def test_the_name_is_looked_at_before_the_policy(
    named: dict[str, Any], status: int, adapters: RequestAdapters
) -> None:
    """A stream for a model that was unloaded was told of the policy of the one that is left."""
    unused: Any = None
    service = OpenAIService(unused, unused, unused, adapters, "m")
    handler = OpenAIHandler(service, ClientRules(), decoupled=False, batched=True)
    call = handled({**named, "stream": True}, decoupled=False).call
    responder = OpenAIResponder(unused, decoupled=False)
    with pytest.raises(NotFoundError if status == 404 else UnsupportedError):
        await handler.run(call, responder, unused)


def test_one_row_makes_one_call() -> None:
    with pytest.raises(InvalidRequestError, match=r"^openai_request: expected one row, got a batch of 2"):
        handled({}, rows=2)


@pytest.mark.parametrize(
    ("body", "sequences"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [], "n": 2}, 2),
        ({"messages": [], "n": "many"}, 1),
        ({"messages": [], "n": True}, 1),
        ({"messages": [], "n": -4}, 1),
        ("no JSON", 1),
        (None, 0),  # a GET
    ],
)
def test_a_call_counts_as_n_sequences_of_each_prompt(body: Any, sequences: int) -> None:
    assert handled(body).sequences == sequences


def test_n_of_many_prompts_is_bounded() -> None:
    handled({"prompt": ["a"] * 1024, "n": 2})
    with pytest.raises(InvalidRequestError, match=r"^n: expected at most 2048 .*MAX_PROMPTS.* got 131072"):
        handled({"prompt": ["a"] * 1024, "n": 128})


def test_the_shorter_timeout_of_a_call_counts() -> None:
    assert handled({}, parameters='{"timeout": 5}', timeout_us=7).timeout_us == 5
    assert handled({}, timeout_us=7).timeout_us == 7


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
        item.container[item.key] = f"handle-{number}"
    assert body["messages"][1]["content"] == [{"type": "text", "text": "a"}, {"image_url": "handle-0"}]
    assert body["messages"][2]["content"][0]["video_url"] == {"url": "handle-1", "x": 1}
    assert body["input"][0]["content"][0] == {"type": "input_image", "image_url": "handle-2"}


def test_what_a_tool_gives_may_have_media() -> None:
    """The Responses API: an image as the output of a function. Its id is removed here as well."""
    part = {"type": "input_image", "image_url": "data:,a", "uuid": "image-of-somebody-else"}
    body = {"input": [{"type": "function_call_output", "call_id": "a", "output": [part]}]}
    (found,) = find_media(body)
    assert found.element == MediaElement("image", "input[0].output[0].image_url", b"data:,a")
    assert "uuid" not in part


def test_audio_in_openais_form_becomes_a_url() -> None:
    body = {"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}]}
    (found,) = find_media(body)
    assert found.element == MediaElement("audio", "messages[0].content[0].input_audio.data", b"AAAA")
    found.container[found.key] = "handle"
    assert body == {"messages": [{"content": [{"type": "audio_url", "audio_url": {"url": "handle"}}]}]}


@pytest.mark.parametrize("body", [{}, {"messages": None, "input": "text"}, {"messages": [{"content": {"a": 1}}]}])
def test_bodies_without_media(body: dict[str, Any]) -> None:
    assert find_media(body) == []


async def test_promised_media_come_when_they_are_asked_for() -> None:
    table, asked = MediaHandles(), []

    async def get(index: int) -> str:
        asked.append(index)
        if index == 1:
            raise InvalidRequestError("no picture")
        return f"medium {index}"

    with table.register_lazy(get, 2) as (first, second):
        assert asked == []
        assert await table.resolve_async(first) == "medium 0"
        with pytest.raises(RefusedMediaError, match="no picture") as refused:
            await table.resolve_async(second)
        assert isinstance(refused.value, ValueError)
        with pytest.raises(RefusedMediaError, match="media rules"):
            table.resolve(first)
    with pytest.raises(RefusedMediaError, match="of earlier requests"):
        await table.resolve_async(first)


def test_frames_of_videos_are_carried_out_here() -> None:
    """vLLM would refuse media_io_kwargs, whatever they say."""
    loader, table = MediaLoader(settings(), {"video": 1}), MediaHandles()
    try:
        for body in ({"messages": []}, {"messages": [{"content": [{"image_url": "http://a"}]}]}):
            with media_by_handle(made := {**body, "media_io_kwargs": {"video": {"num_frames": 4}}}, loader, table):
                assert set(made) == {"messages"}
            with (
                pytest.raises(InvalidRequestError, match="VIDEO_MAX_FRAMES"),
                media_by_handle({**body, "media_io_kwargs": {"video": {"num_frames": 400}}}, loader, table),
            ):
                pass
    finally:
        loader.close()


# Adapters


@pytest.fixture
def adapters() -> RequestAdapters:
    paths = {"zh": "/adapters/zh", "caps": "/adapters/caps"}
    return RequestAdapters(LoraAdapters(FakeEngine(), paths, enabled=True))


@pytest.mark.usefixtures("vllm")
async def test_a_request_sees_the_adapter_that_it_has_taken_only(adapters: RequestAdapters) -> None:
    seen = _LoraRequests(adapters)
    assert ("zh" in seen, len(seen), list(seen)) == (False, 0, [])
    async with adapters.use("zh"):
        made = seen["zh"]
        assert (made.lora_name, made.lora_int_id, made.lora_path) == ("zh", 1, "/adapters/zh")
        assert ("caps" in seen, len(seen), dict(seen)) == (False, 1, {"zh": made})
    assert ("zh" in seen, len(seen), list(seen)) == (False, 0, [])


async def test_requests_at_once_see_an_adapter_of_their_own(adapters: RequestAdapters) -> None:
    async def used(name: str | None) -> str | None:
        async with adapters.use(name):
            await asyncio.sleep(0.01)
            taken = adapters.current()
            return taken and taken[0]

    assert await asyncio.gather(*map(used, ("zh", None, "caps", "other"))) == ["zh", None, "caps", None]


class Card(SimpleNamespace):
    """vLLM's ModelCard."""

    def model_copy(self, update: dict[str, Any]) -> Card:
        return Card(**{**vars(self), **update})


@pytest.mark.usefixtures("vllm")
async def test_adapters_are_models_by_their_own_names(adapters: RequestAdapters) -> None:
    async def base_models() -> Any:
        return SimpleNamespace(data=[Card(id="vl", root="vl", parent=None, max_model_len=9)])

    models = SimpleNamespace(show_available_models=base_models, base_model_paths=[SimpleNamespace(name="vl")])
    _serve_adapters(models, adapters)
    base, *others = (await models.show_available_models()).data
    assert (base.id, base.parent) == ("vl", None)
    assert others == [Card(id=name, root=name, parent="vl", max_model_len=9) for name in ("zh", "caps")]
    assert models.model_name() == "vl"
    async with adapters.use("zh"):
        assert models.model_name(models.lora_requests["zh"]) == "zh"
        assert models.model_name() == "vl"


# Building


def settings(**parameters: str) -> Settings:
    given = {name: {"string_value": value} for name, value in parameters.items()}
    return Settings.from_model_config({"name": "m", "parameters": given})


async def build(log: list[str], **parameters: str) -> OpenAIService:
    """On an engine that has no application."""
    unused: Any = None
    engine = NoApplication()
    return await OpenAIService.build(engine, settings(**parameters), None, unused, unused, unused, log.append)


class NoApplication(FakeEngine):
    async def openai_application(self, *_: Any) -> Any:
        raise RuntimeError("no tokenizer")


async def test_a_model_serves_without_the_application_where_vllm_cannot_build_it() -> None:
    log: list[str] = []
    service = await build(log)
    assert "no tokenizer" in log[0]
    with pytest.raises(UnsupportedError, match="no OpenAI application"):
        await service.serve(OpenAICall("/version", "GET", None), stream=None, request_id="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"TOOL_CALL_PARSER": "hermes"}, "no tokenizer"),
        ({"OPENAI_ARGS": '{"response_role": "bot"}'}, "no tokenizer"),
        ({"OPENAI_STORED_RESPONSES": "5"}, "no tokenizer"),
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
    check_parsers("hermes", "qwen3")
    with pytest.raises(ConfigError, match=r"TOOL_CALL_PARSER: expected one of .*hermes"):
        check_parsers("zeus", "")
    with pytest.raises(ConfigError, match=r"REASONING_PARSER: expected one of .*qwen3"):
        check_parsers("", "zeus")


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


@pytest.mark.parametrize(
    ("value", "sent"),
    [("abc-1", b"abc-1"), ("é 1", "é 1".encode("latin-1")), ("请求1", b"%E8%AF%B7%E6%B1%821"), ("\ud800", b"%3F")],
)
async def test_a_request_id_of_any_characters_reaches_the_application(value: str, sent: bytes) -> None:
    """Ids beyond Latin-1 ended in "'latin-1' codec can't encode characters"."""
    seen: list[Any] = []

    async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append(scope)

    await call_application(application, "GET", f"/{value}", {"x-request-id": value}, b"", Kept())
    assert seen[0]["headers"] == [(b"x-request-id", sent)]
    assert seen[0]["raw_path"].isascii()


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
    monkeypatch.setattr("vllm_custom.openai.asgi._DISCONNECT_GRACE_SECONDS", 0.05)
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


async def test_who_is_cancelled_again_and_again_tells_the_application_all_the_same() -> None:
    """Its handler was cancelled before it heard that the client has gone, and left the engine running."""
    told, may_end = asyncio.Event(), asyncio.Event()

    async def slow(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        started.set()
        assert (await receive())["type"] == "http.disconnect"
        told.set()
        await may_end.wait()
        ended.append(True)

    started, ended = asyncio.Event(), list[bool]()
    call = asyncio.ensure_future(call_application(slow, "GET", "/", {}, b"", Kept()))
    await started.wait()
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0)
    await asyncio.wait_for(told.wait(), 5)
    call.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended == [True]


# What goes back


def test_pieces_that_wait_become_one() -> None:
    piece = ResponseChunk([b"data: 1\n\n"], 200, {"content-type": "text/event-stream"})
    piece.add(ResponseChunk([b"data: 2\n\n"]))
    arrays = piece.arrays(frozenset())
    assert arrays["openai_response"].tolist() == [b"data: 1\n\ndata: 2\n\n"]
    assert (arrays["openai_status"].tolist(), arrays["openai_status"].dtype) == ([200], np.int32)
    assert json.loads(arrays["openai_headers"][0]) == {"content-type": "text/event-stream"}
    assert set(ResponseChunk([b"x"]).arrays(frozenset())) == {"openai_response"}, "what follows has a body only"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequestError("a"), 400, "BadRequestError"),
        (invalid("n", 0, "at least 1"), 400, "BadRequestError"),
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
    content = {"message": str(error), "type": kind, "param": error.param, "code": status}
    assert (error_document(error)[0], json.loads(error_document(error)[1])) == (status, {"error": content})


def _answered(stream: OpenAIResponder, status: int) -> None:
    stream.start(status, {"content-type": "application/json"})
    stream.body(b"{}", more=False)


def _broken(stream: OpenAIResponder) -> None:
    stream.start(200, {"content-type": "text/event-stream"})
    stream.body(b"data: 1\n\n", more=True)
    stream.fail(UnavailableError("gone"))


def _late(stream: OpenAIResponder) -> None:
    _answered(stream, 200)
    stream.fail(RequestCancelledError("gone"))


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda stream: _answered(stream, 200), None),
        (_late, None),
        (lambda stream: _answered(stream, 404), "NOT_FOUND"),
        (lambda stream: _answered(stream, 422), "INVALID_ARG"),
        (lambda stream: _answered(stream, 500), "INTERNAL"),
        (lambda stream: stream.fail(UnsupportedError("no")), "UNSUPPORTED"),
        (_broken, "UNAVAILABLE"),
    ],
)
def test_what_an_answer_is_counted_as(act: Callable[[OpenAIResponder], None], code: str | None) -> None:
    outcomes: list[BackendError | None] = []
    pool = SenderPool(ResponseBuilder(fakes.pb_utils, frozenset({"openai_response"}), batched=False), fakes.Log(), 1)
    act(OpenAIResponder(ResponseStream(pool, fakes.ResponseSender(), on_done=outcomes.append)))
    pool.close()
    assert [None if error is None else error.triton_code for error in outcomes] == [code]


def answers(act: Callable[[OpenAIResponder], None], *, decoupled: bool) -> list[dict[str, Any]]:
    """The outputs of each response, the last of which is final."""
    names = frozenset({"openai_response", "openai_status", "openai_headers"})
    pool = SenderPool(ResponseBuilder(fakes.pb_utils, names, batched=False), fakes.Log(), 1, merge=False)
    sender = fakes.ResponseSender()
    act(OpenAIResponder(ResponseStream(pool, sender, on_done=lambda error: None), decoupled=decoupled))
    pool.close()
    assert sender.flags == [0] * (len(sender.sent) - 1) + [1]
    return [
        {tensor.name(): tensor.as_numpy()[0] for tensor in response.output_tensors()} for response, _ in sender.sent
    ]


def _in_parts(stream: OpenAIResponder) -> None:
    stream.start(200, {"content-type": "application/json"})
    for part in (b"", b"[1,", b"2", b"]"):
        stream.body(part, more=True)
    stream.body(b"", more=False)


def test_an_answer_in_parts_is_one_response_where_the_model_is_not_decoupled() -> None:
    """Triton refuses a second response there, and with it the final one: the client waited forever."""
    (answer,) = answers(_in_parts, decoupled=False)
    assert (answer["openai_status"], answer["openai_response"]) == (200, b"[1,2]")
    first, *others = answers(_in_parts, decoupled=True)
    assert (first["openai_status"], first["openai_response"]) == (200, b"[1,")
    assert b"".join(other["openai_response"] for other in others) == b"2]"


def test_a_failure_takes_the_place_of_what_was_collected() -> None:
    (answer,) = answers(_broken, decoupled=False)
    assert answer["openai_status"] == 503
    assert json.loads(answer["openai_response"])["error"]["message"] == "gone"
    assert json.loads(answer["openai_headers"]) == {"content-type": "application/json", "retry-after": "1"}
