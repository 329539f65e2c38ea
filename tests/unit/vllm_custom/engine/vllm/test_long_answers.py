"""Answers with many log probabilities are built beside the event loop, and are what vLLM would have sent."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer

from vllm_custom.engine.vllm.long_answers import build_long_answers_in_threads
from vllm_custom.openai.asgi import call_application

pytestmark = pytest.mark.usefixtures("vllm")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED = {"model": "m", "logprobs": True, "top_logprobs": 4}


class Sink:
    def __init__(self) -> None:
        self.status, self.text, self.headers = 0, b"", {}

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers

    def body(self, chunk: bytes, *, more: bool) -> None:
        self.text += chunk

    @property
    def document(self) -> Any:
        answer = json.loads(self.text)
        return {**answer, "created": 0}


class Tokenizer:
    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def decode(self, token: int) -> str:
        self.threads.add(threading.current_thread())
        return f"<{token}>"


def results(tokens: int, sequences: int = 1) -> Any:
    """What the engine gives at the end; one token has no log probability, so that it is decoded."""
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

    steps: list[Any] = [{rank: Logprob(-0.5 * rank, rank, f"t{rank}é") for rank in range(4)} for _ in range(tokens)]
    steps[0] = None
    steps[1] = {1: Logprob(float("-inf"), 1, "\ufffd")}
    outputs = [
        CompletionOutput(index, "text", [1] * tokens, None, steps, finish_reason="stop") for index in range(sequences)
    ]
    return RequestOutput("id", "prompt", [1, 2], None, outputs, finished=True)


class Served:
    """vLLM's routes and handlers; what the engine says is given."""

    def __init__(self, result: Any) -> None:
        from fastapi import FastAPI
        from vllm.entrypoints.openai.chat_completion import api_router as chat
        from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
        from vllm.entrypoints.openai.completion import api_router as completion
        from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

        self.application = FastAPI()
        self.application.include_router(chat.router)
        self.application.include_router(completion.router)
        self.tokenizer = Tokenizer()
        self._result = result
        chats, completions = OpenAIServingChat.__new__(OpenAIServingChat), object.__new__(OpenAIServingCompletion)
        for handler in (chats, completions):
            handler.return_tokens_as_token_ids = handler.enable_prompt_tokens_details = False
            handler.enable_per_request_metrics = handler.enable_log_outputs = False
            handler.system_fingerprint = handler.has_kv_connector = None
        chats.parser_cls, chats.enable_auto_tools, chats.response_role = None, False, "assistant"
        chats._include_reasoning_tokens_details = False
        chats.create_chat_completion = self._chat
        completions._create_completion = self._completion
        state = self.application.state
        state.openai_serving_chat, state.openai_serving_completion = chats, completions

    async def _results(self) -> AsyncIterator[Any]:
        yield self._result

    async def _chat(self, request: Any, raw_request: Any) -> Any:
        handler = self.application.state.openai_serving_chat
        metadata = SimpleNamespace()
        return await handler.chat_completion_full_generator(
            request, self._results(), "id", "m", [], self.tokenizer, metadata, parser=None
        )

    async def _completion(self, request: Any, raw_request: Any) -> Any:
        handler = self.application.state.openai_serving_completion
        (result,) = [result async for result in self._results()]
        return handler.request_output_to_completion_response(
            [result], request, "id", 0, "m", self.tokenizer, SimpleNamespace()
        )

    def post(self, path: str, body: Any, *, threads: bool) -> Sink:
        async def serve() -> Sink:
            application: Any = self.application
            if threads:
                application = build_long_answers_in_threads(application, application.state)
            sink = Sink()
            data = json.dumps(body).encode()
            await call_application(application, "POST", path, {"content-type": "application/json"}, data, sink)
            return sink

        return asyncio.run(serve())


def body_of(path: str) -> dict[str, Any]:
    return (
        {**ASKED, "messages": [{"role": "user", "content": "hi"}]}
        if path == CHAT
        else {"model": "m", "prompt": "hi", "logprobs": 4}
    )


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("tokens", "sequences"), [(3, 1), (400, 1), (150, 3)])
def test_the_answer_is_what_vllm_would_have_sent(path: str, tokens: int, sequences: int) -> None:
    body = body_of(path) | {"n": sequences}
    expected = Served(results(tokens, sequences)).post(path, body, threads=False)
    got = Served(results(tokens, sequences)).post(path, body, threads=True)
    assert (got.status, got.document) == (200, expected.document)
    assert got.headers == expected.headers


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("tokens", "beside"), [(3, False), (400, True)])
def test_long_answers_are_built_beside_the_event_loop(path: str, tokens: int, beside: bool) -> None:
    served = Served(results(tokens))
    served.post(path, body_of(path), threads=True)
    assert served.tokenizer.threads
    assert (threading.main_thread() not in served.tokenizer.threads) == beside


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_error_while_it_is_built_is_the_applications(path: str) -> None:
    result = results(400)
    result.outputs[0].finish_reason = "error"
    served = Served(result)
    with pytest.raises(Exception, match="Internal server error"):
        served.post(path, body_of(path), threads=True)


THREADS: set[threading.Thread] = set()


class Entry(BaseModel):
    token: str
    top_logprobs: list[int] = [1, 2, 3]

    @field_serializer("token")
    def _write(self, token: str) -> str:
        THREADS.add(threading.current_thread())
        return token


class Part(BaseModel):
    text: str = "text"
    logprobs: list[Entry] | None


class Item(BaseModel):
    content: list[Part]


class Kept(BaseModel):
    output: list[Item]


class Responses:
    """What is asked of vLLM's handler of the responses route."""

    def __init__(self, tokens: int) -> None:
        self.kept: Any = None
        self.tokens = tokens

    def _create_response_logprobs(self, token_ids: Any, logprobs: Any, tokenizer: Any, top_logprobs: int) -> Any:
        THREADS.add(threading.current_thread())
        return [Entry(token="é") for _ in token_ids]

    async def responses_full_generator(self, request: Any, result_generator: Any, context: Any, tokenizer: Any) -> Any:
        _ = [result async for result in result_generator]
        (output,) = context.final_output.outputs
        made = self._create_response_logprobs(output.token_ids, output.logprobs, tokenizer, 3)
        return Kept(output=[Item(content=[Part(logprobs=made)])])

    async def retrieve_responses(self, response_id: str) -> Any:
        return self.kept

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            request = SimpleNamespace(
                stream=False, background=True, top_logprobs=3, is_include_output_logprobs=lambda: True
            )
            context = SimpleNamespace(final_output=results(self.tokens))
            self.kept = await self.responses_full_generator(request, _nothing(), context, None)
        answer = await self.retrieve_responses("id")
        content = json.dumps(answer.model_dump(mode="json", by_alias=True)).encode()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def _nothing() -> AsyncIterator[Any]:
    yield None


@pytest.mark.parametrize(("tokens", "beside"), [(3, False), (400, True)])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_kept_responses_are_built_and_written_beside_the_event_loop(method: str, tokens: int, beside: bool) -> None:
    handler = Responses(tokens)
    handler.kept = expected = Kept(output=[Item(content=[Part(logprobs=[Entry(token="é")] * tokens)])])
    application = build_long_answers_in_threads(handler.application, SimpleNamespace(openai_serving_responses=handler))
    sink = Sink()
    THREADS.clear()
    asyncio.run(call_application(application, method, "/v1/responses", {}, b"", sink))
    assert (threading.main_thread() not in THREADS) == beside
    assert json.loads(sink.text) == expected.model_dump(mode="json")
    assert int(sink.headers.get("content-length", len(sink.text))) == len(sink.text)
