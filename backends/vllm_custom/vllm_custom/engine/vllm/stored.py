"""What vLLM keeps of the Responses API: as many responses as config.pbtxt says, where vLLM would keep all for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from vllm_custom.engine.background import BEGUN

# vLLM's own switch is an environment variable, which says nothing of a number.
_DEFAULT = 1000
_STORES = ("response_store", "msg_store", "event_store")


def bound_stored_responses(serving: Any, most: int) -> None:
    """Let ``serving``, vLLM's OpenAIServingResponses, keep at most ``most`` responses, the youngest.

    Args:
        serving: None where the model has none.
        most: 0 keeps none, unless VLLM_ENABLE_RESPONSES_API_STORE is set.
    """
    if serving is None:
        return
    if not most and serving.enable_store:
        most = _DEFAULT
    serving.enable_store = most > 0
    stores = [_Store(most) for _ in _STORES]
    for name, store in zip(_STORES, stores, strict=True):
        store.others = [other for other in stores if other is not store]
        setattr(serving, name, store)
    serving.background_tasks = _BackgroundTasks()


class _Store(dict[str, Any]):
    """One of several stores with the same keys: what one of them drops, all drop.

    A response without its messages would continue another conversation than the client means.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.others: list[_Store] = []
        self._most = most

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self._most:
            oldest = next(iter(self))
            for store in (self, *self.others):
                store.pop(oldest, None)


class _BackgroundTasks(dict[str, "asyncio.Task[Any]"]):
    """Tasks by the ids of their responses; whoever has asked for one is told of it."""

    def __setitem__(self, key: str, task: asyncio.Task[Any]) -> None:
        super().__setitem__(key, task)
        begun = BEGUN.get()
        if begun is not None:
            begun.append(task)
