"""The adapters of this model as models of vLLM's OpenAI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

from vllm_custom.engine.protocol import Adapter
from vllm_custom.lora import LoraAdapters

_in_use: ContextVar[tuple[str, Adapter] | None] = ContextVar("vllm_custom_adapter", default=None)


class RequestAdapters:
    """Which adapter a request uses: vLLM's application looks it up while it serves the request."""

    def __init__(self, loras: LoraAdapters) -> None:
        self._loras = loras

    async def names(self) -> list[str]:
        """All adapters of the model."""
        return await self._loras.names()

    def current(self) -> tuple[str, Adapter] | None:
        """The name and the adapter of the request of this context; None for a request without one."""
        return _in_use.get()

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[None]:
        """Let the request of this context use the adapter ``name``, if there is one of that name.

        Raises:
            InvalidRequestError, UnavailableError: the adapter cannot be loaded now.
        """
        if name is None or name not in await self._loras.names():
            yield
            return
        async with self._loras.use(name) as adapter:
            assert adapter is not None
            token = _in_use.set((name, adapter))
            try:
                yield
            finally:
                with suppress(ValueError):  # a request that goes on in the background ends in another context
                    _in_use.reset(token)
