"""An engine that keeps what it was asked, with token ids and embeddings as prompts, and what a sender was given."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from tests.support.fake_engine import FACTS, FakeEngine, Params
from tests.support.service_harness import Sender
from vllm_custom.engine import RunOptions

SIZE = 8
NATIVE = dataclasses.replace(
    FACTS,
    sampling_fields=FACTS.sampling_fields | {"prompt_logprobs": int | None},
    media_limits={},
    max_prompt_tokens=64,
    prompt_embeds_size=SIZE,
    data_parallel_ranks=2,
)


class Recording(FakeEngine):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(NATIVE)
        self.prompts: list[Mapping[str, Any]] = []
        self.options: list[RunOptions] = []
        self.template_kwargs: list[Mapping[str, Any]] = []

    async def run(self, prompt: Mapping[str, Any], params: Params, options: RunOptions) -> AsyncGenerator[Any, None]:
        self.prompts.append(prompt)
        self.options.append(options)
        async for output in super().run(prompt, params, options):
            yield output

    async def render_chat(self, *messages: Any, **options: Any) -> Mapping[str, Any]:
        self.template_kwargs.append(options["template_kwargs"])
        return await super().render_chat(*messages, **options)


def outputs(sender: Sender, name: str) -> list[Any]:
    """An output of each response that has it."""
    assert sender.error is None, sender.error.message()
    responses = [response for response, _ in sender.sent if response is not None]
    return [
        tensor.as_numpy() for response in responses for tensor in response.output_tensors() if tensor.name() == name
    ]


def refusal(sender: Sender) -> str:
    """The message of its error."""
    error = sender.wait().error
    assert error is not None
    return str(error.message())
