"""The adapters of this model as models of vLLM's OpenAI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from vllm_custom.lora import LoraAdapters

# The adapter that the request of this context uses: its name, and vLLM's LoRARequest.
_in_use: ContextVar[tuple[str, Any] | None] = ContextVar("vllm_custom_adapter", default=None)


class AdapterOfRequest(Mapping[str, Any]):
    """What vLLM looks an adapter up in: it holds the one that this request has taken, and no other.

    Adapters may be replaced while requests run, so two requests may mean different weights by one name.
    """

    def __getitem__(self, name: str) -> Any:
        taken = _in_use.get()
        if taken is None or taken[0] != name:
            raise KeyError(name)
        return taken[1]

    def __iter__(self) -> Iterator[str]:
        taken = _in_use.get()
        return iter(()) if taken is None else iter((taken[0],))

    def __len__(self) -> int:
        return 0 if _in_use.get() is None else 1


@asynccontextmanager
async def adapter_in_use(loras: LoraAdapters, name: str | None) -> AsyncIterator[None]:
    """Let the request of this context use the adapter ``name``, if there is one of that name.

    Raises:
        InvalidRequestError, UnavailableError: the adapter cannot be loaded now.
    """
    if name is None or name not in await loras.names():
        yield
        return
    async with loras.use(name) as lora:
        token = _in_use.set((name, lora))
        try:
            yield
        finally:
            _in_use.reset(token)


def serve_adapters(models: Any, loras: LoraAdapters) -> None:
    """Make ``models``, vLLM's OpenAIServingModels, know the adapters of this model by their own names."""
    base_models = models.show_available_models

    async def show_available_models() -> Any:
        cards = await base_models()
        (first, *_) = cards.data
        for name in await loras.names():
            cards.data.append(first.model_copy(update={"id": name, "root": name, "parent": first.id}))
        return cards

    def model_name(lora_request: Any = None) -> str:
        taken = _in_use.get()
        return taken[0] if lora_request is not None and taken is not None else models.base_model_paths[0].name

    models.lora_requests = AdapterOfRequest()
    models.show_available_models = show_available_models
    models.model_name = model_name
