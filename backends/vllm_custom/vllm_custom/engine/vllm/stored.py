"""What vLLM keeps of the Responses API: as many responses as config.pbtxt says, where vLLM would keep all forever."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from vllm_custom.engine.background import BEGUN, Storage
from vllm_custom.errors import UnsupportedError

# vLLM's own switch is an environment variable, which says nothing of a number.
_DEFAULT = 1000
_STORES = ("response_store", "msg_store", "event_store")
# Of memory: an event of a stream, a log probability, a number in a list.
_EVENT_BYTES, _ENTRY_BYTES, _NUMBER_BYTES = 2048, 512, 32
_UNFINISHED = ("queued", "in_progress")
_USED = ("enable_store", "background_tasks", "responses_background_stream_generator")


def bound_stored_responses(serving: Any, storage: Storage) -> None:
    """Let ``serving``, vLLM's OpenAIServingResponses, keep what ``storage`` allows, the youngest responses.

    Args:
        serving: None where the model has none.
        storage: no responses keep none, unless VLLM_ENABLE_RESPONSES_API_STORE is set.

    Raises:
        UnsupportedError: this version of vLLM keeps responses in another way, or not at all, and some are to be kept.
    """
    if serving is None or not all(hasattr(serving, name) for name in (*_STORES, *_USED)):
        if storage.responses:
            raise UnsupportedError("OPENAI_STORED_RESPONSES: this model has no Responses API, or another one, in vLLM")
        return
    if not storage.responses and serving.enable_store:
        storage = replace(storage, responses=_DEFAULT)
    serving.enable_store = storage.responses > 0
    stores = _Stores(storage)
    for name, store in zip(_STORES, (stores.responses, stores.messages, stores.events), strict=True):
        setattr(serving, name, store)
    serving.background_tasks = _BackgroundTasks(serving.response_store)
    unknown = serving.responses_background_stream_generator
    serving.responses_background_stream_generator = functools.partial(_events, serving, unknown)


async def _events(
    serving: Any, unknown: Callable[..., AsyncIterator[Any]], response_id: str, starting_after: int | None = None
) -> AsyncIterator[Any]:
    """The events of a background response, to the end of its task: vLLM's own waits forever where it was cancelled.

    Args:
        serving: keeps them.
        unknown: vLLM's own, which says that there are none.
        response_id: of the response.
        starting_after: the number of the last event that the client has; None for none.
    """
    if response_id not in serving.event_store:
        async for event in unknown(response_id, starting_after):
            yield event
        return
    events, more = serving.event_store[response_id]
    index = 0 if starting_after is None else max(starting_after + 1, 0)
    while True:
        more.clear()
        while index < len(events):  # a list of them for each new one would take ever longer
            yield events[index]
            index += 1
        task = serving.background_tasks.get(response_id)
        if index >= len(events) and (task is None or task.done()):
            return
        if index >= len(events):
            await more.wait()


class _Stores:
    """Several stores with the same keys: what one of them drops, all drop.

    A response without its messages would continue another conversation than the client means.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.messages = _Store(self)
        self.responses = _Store(self, needed=self.messages)
        self.events = _Store(self, measured=False)

    def shrink(self) -> None:
        """Drop the oldest where there are too many, or where they are too large."""
        while max(map(len, self._all)) > self._storage.responses or self._bytes > self._storage.bytes:
            most = max(map(len, self._all))
            oldest = next(key for store in self._all if len(store) == most for key in store)
            for store in self._all:
                store.drop(oldest)

    @property
    def _all(self) -> tuple[_Store, ...]:
        return self.messages, self.responses, self.events

    @property
    def _bytes(self) -> int:
        events = sum(len(found[0]) for found in self.events.values() if isinstance(found, tuple))
        return self.messages.bytes + self.responses.bytes + events * _EVENT_BYTES


class _Store(dict[str, Any]):
    """One of the stores.

    Attributes:
        bytes: about how many its values have.
    """

    def __init__(self, stores: _Stores, *, needed: _Store | None = None, measured: bool = True) -> None:
        """
        Args:
            stores: this one and its others.
            needed: what is not in it is not kept here, as it was dropped before it was complete.
            measured: whether its values are what they will be.
        """
        super().__init__()
        self.bytes = 0
        self._stores = stores
        self._needed = needed
        self._measured = measured
        self._sizes: dict[str, int] = {}

    def __setitem__(self, key: str, value: Any) -> None:
        if self._needed is not None and key not in self._needed:
            return
        size = memory_of(value) if self._measured else 0
        self.bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        super().__setitem__(key, value)
        self._stores.shrink()

    def drop(self, key: str) -> None:
        """Keep it no longer, if it is here."""
        self.bytes -= self._sizes.pop(key, 0)
        self.pop(key, None)


def memory_of(value: Any) -> int:
    """About how many bytes of memory a value of JSON, or an object made of one, has.

    Log probabilities are counted, not looked at: an answer may have tens of thousands.
    """
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        total += sys.getsizeof(item)
        if isinstance(item, Mapping):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            total += len(item) * _NUMBER_BYTES
            waiting += () if item and isinstance(item[0], int) else item
        elif not isinstance(item, (str, bytes)) and (fields := getattr(item, "__dict__", None)):
            total += _log_probabilities(fields.get("logprobs")) * _ENTRY_BYTES
            waiting += [field for name, field in fields.items() if name != "logprobs"]
            waiting.append(getattr(item, "__pydantic_extra__", None))
    return total


def _log_probabilities(entries: Any) -> int:
    return len(entries) * (1 + len(getattr(entries[-1], "top_logprobs", None) or ())) if entries else 0


class _BackgroundTasks(dict[str, "asyncio.Task[Any]"]):
    """Tasks by the ids of their responses; the request that asked for one is told of it."""

    def __init__(self, responses: Mapping[str, Any]) -> None:
        """``responses``: by their ids, as long as they are kept."""
        super().__init__()
        self._responses = responses

    def __setitem__(self, key: str, task: asyncio.Task[Any]) -> None:
        super().__setitem__(key, task)
        task.add_done_callback(functools.partial(self._end, self._responses.get(key)))
        begun = BEGUN.get()
        if begun is not None:
            begun.append(task)

    @staticmethod
    def _end(response: Any, task: asyncio.Task[Any]) -> None:
        """Without this, a client that asks for a response whose task has failed is told forever that it goes on."""
        failed = not task.cancelled() and task.exception() is not None
        if failed and getattr(response, "status", None) in _UNFINISHED:
            response.status = "failed"
