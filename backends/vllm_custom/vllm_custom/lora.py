"""LoRA adapters by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.errors import InvalidRequestError, NotFoundError, listing


class LoraAdapters:
    """The adapters of multi_lora.json for one engine."""

    def __init__(self, engine: Any, paths: Mapping[str, str], *, enabled: bool) -> None:
        """``paths`` is adapter name to folder, in the order of the ids that the official backend gives them."""
        self._engine = engine
        self._paths = dict(paths)
        self._enabled = enabled
        self._loaded: set[str] = set()

    def check(self, name: str | None) -> None:
        """Refuse an adapter that is not there.

        Raises:
            InvalidRequestError: the model runs without LoRA.
            NotFoundError: no adapter of that name; the message lists those there are.
        """
        if name is None:
            return
        if not self._enabled:
            raise InvalidRequestError(f"lora_name: {name!r} was asked for, but this model runs without enable_lora")
        if name not in self._paths:
            raise NotFoundError(f"lora_name: no adapter {name!r}; this model has {listing(self._paths)}")

    async def request(self, name: str | None) -> Any:
        """vLLM's LoRARequest for ``name``, its weights loaded; None for None.

        The first use loads the adapter by itself: a broken one that first shows up inside ``generate`` would end
        the engine for everybody.
        """
        if name is None:
            return None
        from vllm.lora.request import LoRARequest

        number = list(self._paths).index(name) + 1
        request = LoRARequest(name, number, self._paths[name])
        if name not in self._loaded:
            try:
                await self._engine.add_lora(request)
            except Exception as error:
                raise InvalidRequestError(f"lora_name: the adapter {name!r} cannot be loaded by this engine") from error
            self._loaded.add(name)
        return request
