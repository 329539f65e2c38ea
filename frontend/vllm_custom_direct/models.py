"""Which models this process serves: those that a tritonserver offers, looked for again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

_log = logging.getLogger("vllm_custom_direct")
_LOOK_SECONDS = 0.5
# A model that cannot be attached is tried again, since what is in the way may pass.
_RETRY_SECONDS = 15.0
_DRAIN_SECONDS = 30.0
# So long a model whose engine has died is expected to be offered again.
_EXPECTED_SECONDS = 600.0


class Model(Protocol):
    """A model that this process serves."""

    offer: Any

    @property
    def name(self) -> str: ...
    @property
    def usable(self) -> bool: ...
    @property
    def is_dead(self) -> bool: ...
    @property
    def runner(self) -> Any: ...
    async def names(self) -> list[str]: ...
    async def has_response(self, response_id: str) -> bool: ...
    async def cards(self) -> list[dict[str, Any]]: ...
    async def close(self, seconds: float) -> None: ...


class Attach(Protocol):
    """Makes a model of an offer."""

    async def __call__(self, folder: Path, made: Any) -> Model: ...


class Models:
    """The models by the folders of their engines. For one event loop."""

    def __init__(self, offers: Callable[[], Iterable[tuple[Path, Any]]], attach: Attach) -> None:
        """
        Args:
            offers: what is offered now.
            attach: takes an offer.
        """
        self._offers = offers
        self._attach = attach
        self._models: dict[Path, Model] = {}
        self._offered: Mapping[Path, Any] = {}
        self._retry_at: dict[Path, float] = {}
        self._died_at: dict[str, float] = {}
        self._closing: dict[asyncio.Task[None], str] = {}

    @property
    def usable(self) -> list[Model]:
        """Those that take requests."""
        return [model for model in self._models.values() if model.usable]

    @property
    def ready(self) -> bool:
        """Whether there are models, and each that is offered can be used."""
        return bool(self._offered) and all(
            folder in self._models and self._models[folder].usable for folder in self._offered
        )

    async def is_model_ready(self, name: str) -> bool | None:
        """Whether a model, or one with an adapter of this name, can be used; None where there is none."""
        for model in self.usable:
            if model.name == name or name in await model.names():
                return True
        return False if name in self.offered_names else None

    @property
    def settled(self) -> bool:
        """Whether there is a model that can be used, and all others that are offered have been tried."""
        return bool(self.usable) and all(folder in self._models or folder in self._retry_at for folder in self._offered)

    @property
    def offered_names(self) -> list[str]:
        """Names of the models that are offered, usable here or not, and of those whose engine is about to come back."""
        now = time.monotonic()
        died = [name for name, at in self._died_at.items() if now - at < _EXPECTED_SECONDS]
        return list(dict.fromkeys([*(made.model for made in self._offered.values()), *died]))

    @property
    def leaving_names(self) -> list[str]:
        """Names of the models that are being unloaded, while their requests end."""
        return list(self._closing.values())

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                _log.exception("the models cannot be looked for")
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Leave what is not offered any more, or has died, and attach to what is."""
        self._offered = dict(await asyncio.to_thread(lambda: list(self._offers())))
        for folder, model in list(self._models.items()):
            if model.is_dead or self._offered.get(folder) != model.offer:
                del self._models[folder]
                if model.is_dead:
                    self._died_at[model.name] = time.monotonic()
                self._close(model)
        for folder, made in self._offered.items():
            if folder not in self._models and time.monotonic() >= self._retry_at.get(folder, 0.0):
                await self._try_to_attach(folder, made)

    async def close(self, seconds: float) -> None:
        """Leave all of them."""
        models, self._models = list(self._models.values()), {}
        await asyncio.gather(*(model.close(seconds) for model in models), *self._closing, return_exceptions=True)

    async def _try_to_attach(self, folder: Path, made: Any) -> None:
        began = time.monotonic()
        try:
            self._models[folder] = await self._attach(folder, made)
        except Exception as error:
            _log.error("%s: cannot be served: %s", made.model, error)
            self._retry_at[folder] = time.monotonic() + _RETRY_SECONDS
            return
        self._retry_at.pop(folder, None)
        self._died_at.pop(made.model, None)
        _log.info("%s: served after %.1f s", made.model, time.monotonic() - began)

    def _close(self, model: Model) -> None:
        _log.info("%s: %s", model.name, "its engine has gone" if model.is_dead else "not offered any more")
        task = asyncio.ensure_future(model.close(_DRAIN_SECONDS))
        self._closing[task] = model.name
        task.add_done_callback(self._closing.pop)
