"""Answers with many log probabilities, built and written in a thread: vLLM would do it on the event loop.

There an answer of 4,000 tokens with 20 log probabilities each holds everybody up for one to two seconds.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from pydantic_core import to_json

from vllm_custom.engine.protocol import Application
from vllm_custom.runtime.tuning import without_collections

# Fewer are built sooner than a thread takes over.
_FEW_ENTRIES = 512
# Each building thread wants the interpreter as much as the event loop does.
_BUILT_AT_ONCE = 2
# Writing a list as JSON holds the interpreter; between two pieces of so many items others may have it.
_PIECE = 64
_OK = 200
_Message = dict[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def build_long_answers_in_threads(application: Application, state: Any) -> Application:
    """``application``, in which long answers of chat, completions and responses do not hold the event loop up.

    Args:
        application: vLLM's.
        state: of FastAPI, with vLLM's handlers.
    """
    turn = asyncio.Semaphore(_BUILT_AT_ONCE)
    for name, install in (
        ("openai_serving_chat", _install_chat),
        ("openai_serving_completion", _install_completion),
        ("openai_serving_responses", _install_responses),
    ):
        handler = getattr(state, name, None)
        if handler is not None:
            install(handler, turn)

    async def serve(scope: _Message, receive: _Receive, send: _Send) -> None:
        written = _Written()
        _written.set(written)
        await application(scope, receive, partial(_send_written, written, send))

    return serve


@dataclass
class _Written:
    """The whole answer as JSON, where a thread has written it."""

    body: bytes | None = None


_written: ContextVar[_Written] = ContextVar("vllm_custom_written_answer")


async def _send_written(written: _Written, send: _Send, message: _Message) -> None:
    """Put the whole answer in the place of the short one that the application has written."""
    if written.body is not None:
        if message["type"] == "http.response.start":
            if message["status"] == _OK:
                length = (b"content-length", str(len(written.body)).encode())
                others = [header for header in message["headers"] if header[0].lower() != b"content-length"]
                message = message | {"headers": [*others, length]}
            else:
                written.body = None
        else:
            message = message | {"body": b"" if message.get("more_body") else written.body}
    await send(message)


def _install_chat(handler: Any, turn: asyncio.Semaphore) -> None:
    build = handler.chat_completion_full_generator
    signature = inspect.signature(build)

    async def build_in_thread(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        last = await _last(bound.arguments["result_generator"])
        bound.arguments["result_generator"] = _only(last)
        building = build(*bound.args, **bound.kwargs)
        if last is None or _entries(last.outputs) <= _FEW_ENTRIES:
            return await building
        return await _written_in_thread(turn, partial(_run, building), _without_choices_logprobs)

    handler.chat_completion_full_generator = build_in_thread


def _install_completion(handler: Any, turn: asyncio.Semaphore) -> None:
    create, build = handler.create_completion, handler.request_output_to_completion_response
    signature = inspect.signature(build)

    def build_later(*args: Any, **kwargs: Any) -> Any:
        named = signature.bind(*args, **kwargs).arguments
        entries = sum(_entries(result.outputs) for result in named["final_res_batch"])
        if entries <= _FEW_ENTRIES or named["request"].stream:
            return build(*args, **kwargs)
        return _Later(partial(build, *args, **kwargs))

    async def create_in_thread(*args: Any, **kwargs: Any) -> Any:
        response = await create(*args, **kwargs)
        if isinstance(response, _Later):
            return await _written_in_thread(turn, response.build, _without_choices_logprobs)
        return response

    handler.request_output_to_completion_response = build_later
    handler.create_completion = create_in_thread


def _install_responses(handler: Any, turn: asyncio.Semaphore) -> None:
    build, make_logprobs = handler.responses_full_generator, handler._create_response_logprobs
    retrieve = handler.retrieve_responses
    signature = inspect.signature(build)
    made: ContextVar[Any] = ContextVar("vllm_custom_response_logprobs", default=None)

    def logprobs_made_before(*args: Any, **kwargs: Any) -> Any:
        ready = made.get()
        return make_logprobs(*args, **kwargs) if ready is None else ready

    async def build_in_thread(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        named = bound.arguments
        request = named["request"]
        if request.stream or not request.is_include_output_logprobs():
            return await build(*args, **kwargs)
        await _last(named["result_generator"])
        named["result_generator"] = _only(None)
        outputs: Sequence[Any] = getattr(getattr(named["context"], "final_output", None), "outputs", ())
        if _entries(outputs) <= _FEW_ENTRIES:
            return await build(*bound.args, **bound.kwargs)
        (output,) = outputs
        async with turn:
            ready = await asyncio.to_thread(
                _uncollected,
                partial(
                    make_logprobs,
                    token_ids=output.token_ids,
                    logprobs=output.logprobs,
                    tokenizer=named["tokenizer"],
                    top_logprobs=request.top_logprobs,
                ),
            )
        made.set(ready)
        response = await build(*bound.args, **bound.kwargs)
        if request.background:  # it is kept, and no client waits for it
            return response
        return await _written_in_thread(turn, lambda: response, _without_items_logprobs)

    async def retrieve_in_thread(*args: Any, **kwargs: Any) -> Any:
        response = await retrieve(*args, **kwargs)
        if _items_entries(response) <= _FEW_ENTRIES:
            return response
        return await _written_in_thread(turn, lambda: response, _without_items_logprobs)

    handler.retrieve_responses = retrieve_in_thread
    handler._create_response_logprobs = logprobs_made_before
    handler.responses_full_generator = build_in_thread


@dataclass(frozen=True)
class _Later:
    """An answer that is still to be built."""

    build: Callable[[], Any]


async def _last(results: AsyncIterator[Any]) -> Any:
    last = None
    async for last in results:  # noqa: B007 - the last one counts
        pass
    return last


async def _only(result: Any) -> AsyncIterator[Any]:
    if result is not None:
        yield result


def _entries(outputs: Iterable[Any]) -> int:
    """Of the sequences' log probabilities, all tokens together."""
    return sum(len(output.logprobs) * len(output.logprobs[-1] or ()) for output in outputs if output.logprobs)


def _items_entries(response: Any) -> int:
    """The same of a response of the responses route."""
    parts = (part for item in getattr(response, "output", None) or () for part in getattr(item, "content", None) or ())
    lists = (getattr(part, "logprobs", None) for part in parts)
    return sum(
        len(entries) * (1 + len(getattr(entries[-1], "top_logprobs", None) or ())) for entries in lists if entries
    )


def _run(building: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of a coroutine that has nothing to wait for, in whatever thread."""
    try:
        building.send(None)
    except StopIteration as end:
        return end.value
    building.close()
    raise RuntimeError("vLLM waits for something while it builds an answer")


def _uncollected(work: Callable[[], Any]) -> Any:
    with without_collections():
        return work()


async def _written_in_thread(
    turn: asyncio.Semaphore, build: Callable[[], Any], shorten: Callable[[Any], tuple[Any, bytes] | None]
) -> Any:
    """The short form of what ``build`` gives; its whole JSON is sent in its place."""

    def work() -> Any:
        response = build()
        shortened = shorten(response)
        if shortened is None:
            return response
        short, written.body = shortened
        return short

    written = _written.get()
    async with turn:
        return await asyncio.to_thread(_uncollected, work)


def _without_choices_logprobs(response: Any) -> tuple[Any, bytes] | None:
    """A chat or completion without its log probabilities, and the JSON of the whole; None for an error."""
    choices = getattr(response, "choices", None)
    if choices is None:
        return None
    short = response.model_copy(update={"choices": [_without_logprobs(choice) for choice in choices]})
    document = short.model_dump()
    for made, choice in zip(document["choices"], choices, strict=True):
        made["logprobs"] = None if choice.logprobs is None else {name: _json(value) for name, value in choice.logprobs}
    return short, msgspec.json.encode(document)


def _without_items_logprobs(response: Any) -> tuple[Any, bytes] | None:
    """The same of the responses route."""
    items = getattr(response, "output", None)
    if items is None:
        return None
    short = response.model_copy(update={"output": [_item_without_logprobs(item) for item in items]})
    document = short.model_dump(mode="json", by_alias=True)
    for made, item in zip(document["output"], items, strict=True):
        for made_part, part in zip(made.get("content") or (), getattr(item, "content", None) or (), strict=True):
            if (logprobs := getattr(part, "logprobs", None)) is not None:
                made_part["logprobs"] = _json(logprobs)
    return short, msgspec.json.encode(document)


def _item_without_logprobs(item: Any) -> Any:
    if not getattr(item, "content", None):
        return item
    return item.model_copy(update={"content": [_without_logprobs(part) for part in item.content]})


def _without_logprobs(part: Any) -> Any:
    return part.model_copy(update={"logprobs": None}) if getattr(part, "logprobs", None) is not None else part


def _json(value: Any) -> Any:
    """A list as JSON, written piece by piece; anything else as it is."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    pieces = (value[start : start + _PIECE] for start in range(0, len(value), _PIECE))
    return msgspec.Raw(b"[" + b",".join(to_json(piece, inf_nan_mode="null")[1:-1] for piece in pieces) + b"]")
