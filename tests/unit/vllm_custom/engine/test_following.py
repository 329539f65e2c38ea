"""What is noted of a prompt in the engine, whatever ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.vllm import requests
from vllm_custom.observability import RequestRecord, serving


def output(tokens: int, *, finished: bool) -> Any:
    completion = SimpleNamespace(index=0, token_ids=[1] * tokens)
    return SimpleNamespace(prompt_token_ids=[1, 2], outputs=[completion], finished=finished)


class Llm:
    """An AsyncLLM of an older version, which has no renderer."""

    vllm_config = SimpleNamespace(observability_config=SimpleNamespace(otlp_traces_endpoint=None))

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        yield output(2, finished=False)
        if prompt == "bad":
            raise ValueError("no")
        yield output(3, finished=True)

    encode = generate


async def noted(prompt: str, kind: str, *, most: int = 10) -> RequestRecord:
    """The record after a prompt whose first ``most`` outputs are read."""
    llm = Llm()
    requests.observe_requests(llm)
    record = RequestRecord("id", 0.0)
    params = SimpleNamespace(n=1, output_kind=SimpleNamespace(name=kind))
    with serving(record):
        outputs = llm.generate(prompt, params, "id")
    read = 0
    async for _ in outputs:
        read += 1
        if read == most:
            break
    await outputs.aclose()
    return record


@pytest.mark.parametrize(("kind", "tokens"), [("DELTA", 5), ("CUMULATIVE", 3)])
async def test_tokens_are_counted_as_outputs_have_them(kind: str, tokens: int) -> None:
    record = await noted("good", kind)
    assert (record.prompt_tokens, record.output_tokens) == (2, tokens)


async def test_parameters_may_be_named_as_vllms_application_names_them() -> None:
    llm: Any = Llm()

    async def encode(prompt: Any, pooling_params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        assert (prompt, pooling_params, request_id) == ("good", None, "id")
        yield output(0, finished=True)

    llm.encode = encode
    requests.observe_requests(llm)
    record = RequestRecord("id", 0.0)
    with serving(record):
        outputs = llm.encode(prompt="good", pooling_params=None, request_id="id")
    assert [one.finished async for one in outputs] == [True]
    assert record.prompt_tokens == 2


async def test_what_came_before_the_end_counts() -> None:
    assert (await noted("good", "DELTA", most=1)).output_tokens == 2
    with pytest.raises(ValueError, match="no"):
        await noted("bad", "DELTA")


async def test_who_is_not_followed_is_left_alone() -> None:
    llm = Llm()
    requests.observe_requests(llm)
    assert [each.finished async for each in llm.generate("good", None, "id")] == [False, True]
