"""The fake engine keeps the contract that the real one is asked for in tests/end_to_end/test_engine_contract.py."""

import inspect
from typing import Any

import pytest

from tests.support import engine_contract
from tests.support.fake_engine import FakeEngine
from vllm_custom.engine import Engine


@pytest.mark.parametrize("promise", engine_contract.CONTRACT, ids=lambda promise: promise.__name__)
async def test_contract(promise: Any) -> None:
    engine = FakeEngine()
    await promise(engine)
    assert not engine.running


def test_nothing_of_the_protocol_is_missing() -> None:
    asked = {name for name in vars(Engine) if not name.startswith("_")}
    assert {name for name in asked if not hasattr(FakeEngine(), name)} == set()


def test_every_promise_is_asked() -> None:
    written = {
        function
        for function in vars(engine_contract).values()
        if inspect.isfunction(function) and list(inspect.signature(function).parameters) == ["engine"]
    }
    assert written - set(engine_contract.CONTRACT) == {engine_contract.after_its_death}


async def test_death() -> None:
    engine = FakeEngine()
    engine.die()
    await engine_contract.after_its_death(engine)
