"""The LoRA adapters that `multi_lora.json` names, and their requests to the engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from vllm_backend_lib.interfaces import Logger
from vllm_backend_lib.kernel import errors, model_files, official_texts


def read_lora_repository(model_dir: Path) -> dict[str, str]:
    """The content of `multi_lora.json`: adapter name -> local folder or hub name.

    Raises ConfigError naming the file and the key where it is missing or wrong.
    """
    repository = model_files.read_adapters(model_dir)
    for name, location in repository.items():
        if Path(location).is_absolute() and not Path(location).is_dir():
            raise errors.ConfigError(f"{model_files.ADAPTERS_FILE}: {name}: folder not found: {location!r}")
    return repository


def check_lora_name(name: str, enabled: bool, supported: list[str]) -> None:
    """Raises InvalidRequestError where there are no adapters at all, NotFoundError where it is none of them."""
    if not enabled:
        raise errors.InvalidRequestError(official_texts.NO_ADAPTERS)
    if name not in supported:
        raise errors.NotFoundError(official_texts.unknown_adapter(name, supported))


class LoraAdapters:
    """Hands out the engine's LoRA requests; an adapter is loaded before its first use.

    A generate call that names an adapter whose files are bad stops the whole engine, whereas loading it explicitly
    only fails: so each adapter is loaded explicitly once.
    """

    def __init__(self, repository: dict[str, str], logger: Logger) -> None:
        self._repository = repository
        self._names = list(repository)
        self._logger = logger
        self._loaded: set[str] = set()
        self._loading = asyncio.Lock()

    async def request_for(self, engine: Any, name: str | None) -> Any:
        """vLLM's LoRARequest for an adapter, None for the bare model."""
        if name is None:
            return None
        from vllm.lora.request import LoRARequest

        check_lora_name(name, bool(self._names), self._names)
        request = LoRARequest(name, self._names.index(name) + 1, self._repository[name])
        if name not in self._loaded:
            async with self._loading:
                if name not in self._loaded:
                    await self._load(engine, request)
        return request

    async def _load(self, engine: Any, request: Any) -> None:
        name = request.lora_name
        try:
            await engine.add_lora(request)
        except Exception as error:
            self._logger.log_error(f"[vllm] cannot load the LoRA adapter {name!r}: {error}")
            raise errors.UnavailableError(
                f"lora_name: the adapter {name!r} cannot be loaded; the server's log says why"
            ) from error
        self._loaded.add(name)
