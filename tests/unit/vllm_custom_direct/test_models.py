"""Which models are served: what is offered is attached to, what is not offered any more is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from vllm_custom_direct import models as module
from vllm_custom_direct.models import Models

from tests.support.direct_harness import offer_of


class Model:
    runner: Any = None

    def __init__(self, offer: Any) -> None:
        self.offer = offer
        self.name = offer.model
        self.is_dead = False
        self.closed = False

    @property
    def usable(self) -> bool:
        return not self.is_dead

    async def names(self) -> list[str]:
        return [self.name, f"{self.name}-adapter"]

    async def close(self, seconds: float) -> None:
        self.closed = True


class World:
    """Offers, and what was made of them."""

    def __init__(self, *names: str) -> None:
        self.offers = {Path(name): offer_of(name) for name in names}
        self.broken: set[str] = set()
        self.made: list[Model] = []
        self.models = Models(lambda: self.offers.items(), self.attach)  # type: ignore[arg-type]

    async def attach(self, folder: Path, made: Any) -> Model:
        if made.model in self.broken:
            raise OSError("gone")
        self.made.append(Model(made))
        return self.made[-1]


async def test_what_is_offered_is_served() -> None:
    world = World("a", "b")
    assert not world.models.ready
    await world.models.look()
    await world.models.look()
    assert [model.name for model in world.models.usable] == ["a", "b"]
    assert len(world.made) == 2
    assert world.models.ready


async def test_a_model_whose_engine_has_died_is_not_ready_before_anybody_looks() -> None:
    world = World("a", "b")
    await world.models.look()
    asked = ("a", "a-adapter", "b", "c")
    assert [await world.models.is_model_ready(name) for name in asked] == [True, True, True, None]
    world.made[0].is_dead = True
    assert [await world.models.is_model_ready(name) for name in asked] == [False, None, True, None]
    assert not world.models.ready
    offered, world.offers = world.offers, {Path("b"): offer_of("b")}
    await world.models.look()
    assert [await world.models.is_model_ready(name) for name in asked] == [False, None, True, None], "it is expected"
    assert world.models.offered_names == ["b", "a"]
    world.offers = offered
    await world.models.look()
    assert await world.models.is_model_ready("a")
    world.offers = {Path("b"): offer_of("b")}
    await world.models.look()
    assert await world.models.is_model_ready("a") is None, "it was unloaded"


async def test_what_is_not_offered_any_more_is_left() -> None:
    world = World("a", "b")
    await world.models.look()
    del world.offers[Path("a")]
    await world.models.look()
    await asyncio.sleep(0)
    assert [model.closed for model in world.made] == [True, False]
    assert world.models.ready


@pytest.mark.parametrize("cause", ["other configuration", "dead"])
async def test_a_model_is_attached_anew(cause: str) -> None:
    world = World("a")
    await world.models.look()
    if cause == "dead":
        world.made[0].is_dead = True
        assert not world.models.ready
    else:
        world.offers[Path("a")] = offer_of("a", model_config='{"name": "a"}')
    await world.models.look()
    await asyncio.sleep(0)
    assert [model.closed for model in world.made] == [True, False]


async def test_one_that_cannot_be_served_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("a", "b")
    world.broken = {"a"}
    assert not world.models.settled
    await world.models.look()
    assert world.models.settled
    assert not world.models.ready, "one that is offered is missing"
    world.broken = set()
    await world.models.look()
    assert [model.name for model in world.models.usable] == ["b"], "not at once"
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    world.models._retry_at.clear()
    await world.models.look()
    assert world.models.ready
