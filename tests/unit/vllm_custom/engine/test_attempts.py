"""A request that the engine failed for want of its media is tried once more, if nothing was given away yet."""

import functools
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest

from vllm_custom.engine.failures import engine_failure
from vllm_custom.engine.retry import ATTEMPTS_WITH_MEDIA, generate_with_retry
from vllm_custom.errors import BackendError, InvalidRequestError, UnavailableError, UnsupportedError

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


def running(engine: Engine, attempts: int = ATTEMPTS_WITH_MEDIA) -> AsyncGenerator[str, None]:
    error = functools.partial(UnavailableError, "try again")
    return generate_with_retry(engine.begin, lambda output: output == FAILED, attempts=attempts, error=error)


async def outputs(engine: Engine) -> list[str]:
    return [output async for output in running(engine)]


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


async def test_without_media_there_is_no_second_attempt() -> None:
    engine = Engine([FAILED], ["a"])
    with pytest.raises(UnavailableError):
        await anext(running(engine, attempts=1))
    assert engine.begun == [0]


@pytest.mark.parametrize(
    ("params", "constraint", "kind", "message"),
    [
        ({}, "", UnavailableError, "try again"),
        ({"allowed_token_ids": [1]}, "", UnavailableError, "try again"),
        ({}, "guided_json", UnsupportedError, "guided_json: the engine could not follow"),
        ({"min_tokens": 0, "bad_words": []}, "guided_json", UnsupportedError, "guided_json: the engine"),
        ({"allowed_token_ids": [1]}, "guided_choice", InvalidRequestError, "^allowed_token_ids: .* guided_choice"),
        ({"bad_words": ["a"]}, "guided_regex", InvalidRequestError, "^bad_words: .* guided_regex"),
        ({"min_tokens": 9}, "guided_regex", InvalidRequestError, "^min_tokens: .* guided_regex"),
    ],
)
def test_what_can_only_fail_again_is_not_called_worth_a_try(
    params: dict[str, object], constraint: str, kind: type[BackendError], message: str
) -> None:
    """Choices that the allowed tokens cannot spell were answered with "try again", forever."""
    error = engine_failure(SimpleNamespace(**params), constraint)
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error


async def test_what_has_given_something_is_not_tried_again() -> None:
    engine = Engine(["a", FAILED], ["b"])
    outputs = running(engine)
    assert await anext(outputs) == "a"
    with pytest.raises(UnavailableError):
        await anext(outputs)
    assert engine.begun == [0]


async def test_leaving_early_closes_the_engines_generator() -> None:
    engine = Engine(["a", "b"])
    outputs = running(engine)
    assert await anext(outputs) == "a"
    await outputs.aclose()
    assert engine.closed == 1
