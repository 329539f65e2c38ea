"""What vLLM keeps of the Responses API: as many responses as config.pbtxt says, where vLLM would keep all forever."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from vllm_custom.engine.background import BEGUN
from vllm_custom.errors import UnsupportedError

# vLLM's own switch is an environment variable, which says nothing of a number.
_DEFAULT = 1000
_STORES = ("response_store", "msg_store", "event_store")
_UNFINISHED = ("queued", "in_progress")
_USED = ("enable_store", "background_tasks", "responses_background_stream_generator")


def bound_stored_responses(serving: Any, most: int) -> None:
    """Let ``serving``, vLLM's OpenAIServingResponses, keep at most ``most`` responses, the youngest.

    Args:
        serving: None where the model has none.
        most: 0 keeps none, unless VLLM_ENABLE_RESPONSES_API_STORE is set.

    Raises:
        UnsupportedError: this version of vLLM keeps responses in another way, or not at all, and ``most`` is not 0.
    """
    if serving is None or not all(hasattr(serving, name) for name in (*_STORES, *_USED)):
        if most:
            raise UnsupportedError("OPENAI_STORED_RESPONSES: this model has no Responses API, or another one, in vLLM")
        return
    if not most and serving.enable_store:
        most = _DEFAULT
    serving.enable_store = most > 0
    stores = {name: _Store(most) for name in _STORES}
    for name, store in stores.items():
        store.others = [other for other in stores.values() if other is not store]
        setattr(serving, name, store)
    stores["response_store"].needed = stores["msg_store"]
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
    index = 0 if starting_after is None else starting_after + 1
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


class _Store(dict[str, Any]):
    """One of several stores with the same keys: what one of them drops, all drop.

    A response without its messages would continue another conversation than the client means.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.others: list[_Store] = []
        # What is not in it is not kept here: it was dropped before it was complete.
        self.needed: _Store | None = None
        self._most = most

    def __setitem__(self, key: str, value: Any) -> None:
        if self.needed is not None and key not in self.needed:
            return
        super().__setitem__(key, value)
        while len(self) > self._most:
            oldest = next(iter(self))
            for store in (self, *self.others):
                store.pop(oldest, None)


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
