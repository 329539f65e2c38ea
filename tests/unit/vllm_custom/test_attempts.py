"""A request that the engine failed for want of its media is tried once more, if nothing was given away yet."""

from collections.abc import AsyncGenerator

import pytest

from vllm_custom.engine.attempts import engine_outputs
from vllm_custom.errors import UnavailableError

FAILED = "failed"


class Engine:
    """Gives the outputs of each attempt; counts generators that were closed."""

    def __init__(self, *attempts: list[str]) -> None:
        self._attempts = attempts
        self.begun: list[int] = []
        self.closed = 0

    async def begin(self, attempt: int) -> AsyncGenerator[str, None]:
        self.begun.append(attempt)
        return self._outputs(self._attempts[attempt])

    async def _outputs(self, outputs: list[str]) -> AsyncGenerator[str, None]:
        try:
            for output in outputs:
                yield output
        finally:
            self.closed += 1


async def outputs(engine: Engine) -> list[str]:
    return [output async for output in engine_outputs(engine.begin, lambda output: output == FAILED)]


async def test_what_does_not_fail_is_asked_once() -> None:
    engine = Engine(["a", "b"])
    assert await outputs(engine) == ["a", "b"]
    assert (engine.begun, engine.closed) == ([0], 1)


async def test_a_failure_at_once_is_followed_by_another_attempt() -> None:
    engine = Engine([FAILED], ["a", "b"])
    assert await outputs(engine) == ["a", "b"]
    assert (engine.begun, engine.closed) == ([0, 1], 2)


async def test_the_second_failure_is_the_clients() -> None:
    engine = Engine([FAILED], [FAILED])
    with pytest.raises(UnavailableError, match="try again"):
        await outputs(engine)
    assert (engine.begun, engine.closed) == ([0, 1], 2)


async def test_what_has_given_something_is_not_tried_again() -> None:
    engine = Engine(["a", FAILED], ["b"])
    running = engine_outputs(engine.begin, lambda output: output == FAILED)
    assert await anext(running) == "a"
    with pytest.raises(UnavailableError):
        await anext(running)
    assert engine.begun == [0]


async def test_leaving_early_closes_the_engines_generator() -> None:
    engine = Engine(["a", "b"])
    running = engine_outputs(engine.begin, lambda output: output == FAILED)
    assert await anext(running) == "a"
    await running.aclose()
    assert engine.closed == 1
