"""What the fake engine promises, asked of it and of the real one alike: unit tests and end-to-end tests run it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from vllm_custom.engine import Engine, RunOptions
from vllm_custom.errors import BackendError, InvalidRequestError, UnavailableError

PROMPT = {"prompt": "one two three"}


async def outputs(
    engine: Engine, prompt: Mapping[str, Any], request_id: str, *, stream: bool, **given: Any
) -> list[Any]:
    """All outputs of one request."""
    params = engine.sampling_params({"max_tokens": 4, "temperature": 0.0, "ignore_eos": True, **given}, stream=stream)
    async with aclosing(engine.run(prompt, params, RunOptions(request_id))) as found:
        return [output async for output in found]


async def rendered_prompt(engine: Engine) -> None:
    rendered = await engine.render_text(PROMPT)
    assert len(rendered["prompt_token_ids"]) > 0
    assert rendered["prompt"] == PROMPT["prompt"]


async def chat_through_the_template(engine: Engine) -> None:
    rendered = await engine.render_chat(
        [{"role": "user", "content": [{"type": "text", "text": "two"}]}],
        template=None,
        template_kwargs={"add_generation_prompt": True},
        processor_kwargs={},
    )
    assert len(rendered["prompt_token_ids"]) > 0
    assert "two" in rendered["prompt"]


async def one_output_that_is_whole(engine: Engine) -> None:
    (output,) = await outputs(engine, await engine.render_text(PROMPT), "whole", stream=False)
    assert output.finished
    (completion,) = output.outputs
    assert (len(completion.token_ids), completion.finish_reason, completion.index) == (4, "length", 0)


async def deltas_that_add_up_to_the_whole(engine: Engine) -> None:
    prompt = await engine.render_text(PROMPT)
    (whole,) = await outputs(engine, prompt, "before", stream=False)
    deltas = await outputs(engine, prompt, "deltas", stream=True)
    assert [output.finished for output in deltas] == [False] * (len(deltas) - 1) + [True]
    assert "".join(output.outputs[0].text for output in deltas) == whole.outputs[0].text
    assert sum(len(output.outputs[0].token_ids) for output in deltas) == 4


async def several_sequences(engine: Engine) -> None:
    prompt = await engine.render_text(PROMPT)
    (output,) = await outputs(engine, prompt, "several", stream=False, n=3, temperature=1.0)
    assert sorted(completion.index for completion in output.outputs) == [0, 1, 2]


async def a_generator_that_is_closed(engine: Engine) -> None:
    """Leaving early aborts the request; the engine serves on."""
    prompt = await engine.render_text(PROMPT)
    params = engine.sampling_params({"max_tokens": 200, "ignore_eos": True}, stream=True)
    async with aclosing(engine.run(prompt, params, RunOptions("closed"))) as found:
        assert not (await anext(found)).finished
    await one_output_that_is_whole(engine)


async def a_task_that_is_cancelled(engine: Engine) -> None:
    prompt = await engine.render_text(PROMPT)
    params = engine.sampling_params({"max_tokens": 200, "ignore_eos": True}, stream=False)

    async def consume(found: AsyncGenerator[Any, None]) -> None:
        async with aclosing(found):
            async for _ in found:
                pass

    task = asyncio.ensure_future(consume(engine.run(prompt, params, RunOptions("cancelled"))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await one_output_that_is_whole(engine)


async def parameters_that_are_refused(engine: Engine) -> None:
    for given in ({"top_p": 7.0}, {"n": 0}, {"max_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(BackendError):
            engine.sampling_params(given, stream=False)


async def errors_that_are_explained(engine: Engine) -> None:
    assert isinstance(engine.explain(ValueError("too long")), InvalidRequestError)
    assert engine.explain(RuntimeError("a defect")) is None


async def facts(engine: Engine) -> None:
    assert engine.facts.generates
    assert engine.facts.has_chat_template
    assert {"n", "max_tokens", "temperature", "top_p", "stop"} <= set(engine.facts.sampling_fields)
    assert engine.facts.media_limits["image"] > 0
    assert engine.placeholder("image", 1)
    assert "regex" in engine.structured_output_options


async def health(engine: Engine) -> None:
    assert not engine.is_dead
    await engine.check_health()


CONTRACT: tuple[Callable[[Engine], Any], ...] = (
    rendered_prompt,
    chat_through_the_template,
    one_output_that_is_whole,
    deltas_that_add_up_to_the_whole,
    several_sequences,
    a_generator_that_is_closed,
    a_task_that_is_cancelled,
    parameters_that_are_refused,
    errors_that_are_explained,
    facts,
    health,
)


async def after_its_death(engine: Engine) -> None:
    """The last question: what runs and all that comes is UNAVAILABLE."""
    assert engine.is_dead
    with pytest.raises(UnavailableError):
        await engine.check_health()
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the engine's own, which it explains
        await outputs(engine, {"prompt": "x", "prompt_token_ids": [1]}, "late", stream=False)
    assert isinstance(engine.explain(caught.value), UnavailableError)
