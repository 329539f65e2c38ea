"""Bodies of vLLM's OpenAI application, read in threads: FastAPI would parse and check them on the event loop.

There a conversation of 9,000 items for /v1/responses, with nothing wrong in it, holds everybody up for two seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from vllm_custom.engine.protocol import Application
from vllm_custom.errors import RefusedInVllmError, root_cause
from vllm_custom.kernel.fail_fast import stop_at_first_error
from vllm_custom.runtime.tuning import without_collections

# What is shorter is read sooner than a thread takes over.
_SHORT_BYTES = 8192
# Each reading thread wants the interpreter as much as the event loop does.
_READ_AT_ONCE = 2
_Message = dict[str, Any]


@dataclass(frozen=True)
class _Read:
    """What a body was read as, or why it is none."""

    value: Any = None
    error: Exception | None = None

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


_read: ContextVar[_Read | None] = ContextVar("vllm_custom_body", default=None)


def read_bodies_in_threads(application: Any, paths: Collection[str]) -> Application:
    """A FastAPI application whose long bodies are parsed and checked in threads, off the event loop.

    A body is refused for the first element that is wrong, and not for all of them.

    Args:
        application: FastAPI's.
        paths: of the routes whose handlers read no bodies by themselves.
    """
    adapters: dict[str, TypeAdapter[Any]] = {}
    for route in application.routes:
        for field in getattr(getattr(route, "dependant", None), "body_params", ()):
            adapter = field._type_adapter
            stop_at_first_error(adapter)
            adapter.validator = _ReadBefore(adapter.validator)
            if route.path in paths:
                adapters[route.path] = adapter

    turn = asyncio.Semaphore(_READ_AT_ONCE)

    async def serve(
        scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        adapter = adapters.get(scope["path"])
        if adapter is not None:
            receive = await _with_body_read(receive, adapter, turn)
        await application(scope, receive, send)

    return serve


class _ReadBefore:
    """A validator that knows the body of this context already."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def validate_python(self, value: Any, **options: Any) -> Any:
        """As pydantic's."""
        read = _read.get()
        if read is not None and value == {}:
            return read.outcome()
        try:
            return self._validator.validate_python(value, **options)
        except Exception as error:
            raise _explained(error) from error


async def _with_body_read(
    receive: Callable[[], Awaitable[_Message]], adapter: TypeAdapter[Any], turn: asyncio.Semaphore
) -> Callable[[], Awaitable[_Message]]:
    """``receive``, with an empty object in place of a body that has been read here."""
    waiting = [await receive()]
    body = waiting[0].get("body", b"")
    if len(body) > _SHORT_BYTES and not waiting[0].get("more_body"):
        async with turn:
            read = await asyncio.to_thread(_try_to_read, body, adapter)
        if read is not None:
            _read.set(read)
            waiting[0] = waiting[0] | {"body": b"{}"}

    async def again() -> _Message:
        return waiting.pop() if waiting else await receive()

    return again


def _try_to_read(body: bytes, adapter: TypeAdapter[Any]) -> _Read | None:
    """None where it is no JSON object, which the application itself says best."""
    try:
        with without_collections():
            value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    try:
        return _Read(adapter.validate_python(value, from_attributes=True))
    except Exception as error:  # pydantic's, and what vLLM's own checks raise
        return _Read(error=_explained(error))


def _explained(error: Exception) -> Exception:
    """vLLM's own checks look at a body before pydantic does, and stumble over what they do not find in it."""
    if isinstance(error, (LookupError, AttributeError, RecursionError)):
        return RefusedInVllmError(f"the body is malformed: {type(error).__name__}: {root_cause(error)}")
    return error
