"""Which model is served where: the repository indexes of all servers, looked at every few seconds when asked."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_custom.frontend import errors
from vllm_custom.frontend.triton import Call, ServedModel, Triton, TritonError, UnreachableError

_log = logging.getLogger("vllm_custom.frontend")
# Older than this, and the next request makes us look again, without waiting for what we see.
_FRESH_SECONDS = 2.0
# Older than this, and it waits.
_USABLE_SECONDS = 60.0
# A name that nobody knows makes us look again, but not more often than this.
_MIN_AGE_SECONDS = 0.2
_MODELS_PATH = "/v1/models"


@dataclass(frozen=True)
class Place:
    """A model on one server."""

    triton: Triton
    model: ServedModel


@dataclass
class _Picture:
    """What was found at one time: places by every name that requests may use, and OpenAI's model cards."""

    taken_at: float = float("-inf")
    places: dict[str, list[Place]] = field(default_factory=dict)
    cards: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    reached: int = 0


class Directory:
    """Finds the servers of a model, or of one of its LoRA adapters, by name."""

    def __init__(self, tritons: Sequence[Triton]) -> None:
        self._tritons = tritons
        self._picture = _Picture()
        self._looking: asyncio.Task[_Picture] | None = None
        self._last_cards: dict[tuple[str, str], list[Mapping[str, Any]]] = {}

    async def cards(self) -> list[Mapping[str, Any]]:
        """OpenAI's cards of all models and adapters.

        Raises:
            FrontendError: no server can be reached.
        """
        picture = await self._current(_USABLE_SECONDS)
        if not picture.reached:
            raise errors.unavailable("no Triton server can be reached")
        return list(picture.cards.values())

    async def places(self, name: str | None) -> list[Place]:
        """The places that serve ``name``, that with the fewest open requests first.

        Where only one model is served it gets every request: it answers itself for names that it does not have.

        Raises:
            FrontendError: nobody serves the model, or no server can be reached.
        """
        picture = await self._current(_USABLE_SECONDS)
        if name not in picture.places:
            picture = await self._current(_MIN_AGE_SECONDS)
        if name is not None and name in picture.places:
            found = picture.places[name]
        elif len(picture.models) == 1:
            found = picture.places[picture.models[0]]
        elif not picture.reached:
            raise errors.unavailable("no Triton server can be reached")
        elif not picture.models:
            raise errors.unavailable("no model with openai_request is ready")
        elif name is None:
            raise errors.model_wanted(picture.models)
        else:
            raise errors.unknown_model(name, list(picture.places))
        return sorted(found, key=lambda place: place.triton.open_calls)

    async def is_ready(self) -> bool:
        """Whether some model is served."""
        return bool((await self._current(_USABLE_SECONDS)).models)

    def forget(self) -> None:
        """Something was not where it should be: look again before the next request."""
        self._picture.taken_at = float("-inf")
        for triton in self._tritons:
            triton.forget()

    async def _current(self, max_age_seconds: float) -> _Picture:
        age = time.monotonic() - self._picture.taken_at
        if age > min(max_age_seconds, _FRESH_SECONDS) and self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(self._looked)
        if age > max_age_seconds and self._looking is not None:
            return await asyncio.shield(self._looking)
        return self._picture

    def _looked(self, task: asyncio.Task[_Picture]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is None:
            self._picture = task.result()

    async def _look(self) -> _Picture:
        picture = _Picture()
        found = await asyncio.gather(*(self._look_at(triton) for triton in self._tritons))
        for triton, models in zip(self._tritons, found, strict=True):
            if models is None:
                continue
            picture.reached += 1
            for model, cards in models:
                place = Place(triton, model)
                if model.name not in picture.models:
                    picture.models.append(model.name)
                for card in cards:
                    picture.cards.setdefault(card["id"], card)
                for name in dict.fromkeys([model.name, *(card["id"] for card in cards)]):
                    picture.places.setdefault(name, []).append(place)
        picture.taken_at = time.monotonic()
        return picture

    async def _look_at(self, triton: Triton) -> list[tuple[ServedModel, list[Mapping[str, Any]]]] | None:
        try:
            return [(model, await self._cards_of(triton, model)) for model in await triton.models()]
        except UnreachableError as error:
            _log.warning("%s", error)
            return None

    async def _cards_of(self, triton: Triton, model: ServedModel) -> list[Mapping[str, Any]]:
        """The model's own card and those of its adapters; the last ones where it is too busy to say."""
        key = (triton.address, model.name)
        try:
            body = b"".join([part.body async for part in triton.call(Call(model, _MODELS_PATH, "GET"))])
            self._last_cards[key] = list(json.loads(body)["data"])
        except (TritonError, ValueError, KeyError) as error:
            _log.warning("%s: %s does not list its models: %r", triton.address, model.name, error)
        return self._last_cards.get(key, [])
