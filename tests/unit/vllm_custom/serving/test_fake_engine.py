"""The fake engine keeps the contract that the real one is asked for in tests/end_to_end/test_engine_contract.py."""

from typing import Any

import pytest

from tests.support import engine_contract
from tests.support.fake_engine import FakeEngine


@pytest.mark.parametrize("promise", engine_contract.CONTRACT, ids=lambda promise: promise.__name__)
async def test_contract(promise: Any) -> None:
    engine = FakeEngine()
    await promise(engine)
    assert not engine.running


async def test_death() -> None:
    engine = FakeEngine()
    engine.die()
    await engine_contract.after_its_death(engine)
