"""What generating and pooling have in common: adapter, prompt, engine, and a second attempt."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from vllm_custom.chat import PromptBuilder, PromptPlan, RenderedPrompt
from vllm_custom.engine import Adapter, Engine, RunOptions
from vllm_custom.engine.answers import ChatReading
from vllm_custom.engine.failures import engine_failure
from vllm_custom.engine.retry import ATTEMPTS_WITH_MEDIA, generate_with_retry
from vllm_custom.errors import UnavailableError, invalid
from vllm_custom.lora import LoraAdapters
from vllm_custom.request import InferenceCall
from vllm_custom.request.context import RequestContext, random_id


@dataclass(frozen=True)
class EngineCalls:
    """Runs calls on the engine."""

    engine: Engine
    prompts: PromptBuilder
    loras: LoraAdapters

    @asynccontextmanager
    async def outputs(
        self,
        call: InferenceCall,
        context: RequestContext,
        plan: PromptPlan,
        params: Any,
        constraint: str = "",
        reading: ChatReading | None = None,
    ) -> AsyncIterator[tuple[AsyncGenerator[Any, None], RenderedPrompt]]:
        """Adapter, media and prompt, then the engine's outputs.

        Args:
            call: of the client.
            context: of the request.
            plan: how its prompt is made.
            params: SamplingParams or PoolingParams.
            constraint: the parameter that asks for one.
            reading: how the answer is read, where it is taken apart.

        Leaving the context early closes the engine's generator, which aborts the request there.

        Raises:
            InvalidRequestError: a data-parallel rank that the engine does not have.
        """
        self._check_rank(call)
        async with self.loras.use(call.control.lora_name) as adapter:
            prompt = await self.prompts.render(call, plan)

            async def begin(attempt: int) -> AsyncGenerator[Any, None]:
                rendered = prompt if attempt == 0 else await self.prompts.render(call, plan)
                return self.run(call, context, rendered.engine_input, params, adapter, reading)

            attempts = ATTEMPTS_WITH_MEDIA if plan.elements or plan.embedded else 1
            error = functools.partial(engine_failure, params, constraint)
            running = generate_with_retry(begin, self.engine.has_failed, attempts=attempts, error=error)
            async with aclosing(running) as outputs:
                yield outputs, prompt

    def _check_rank(self, call: InferenceCall) -> None:
        rank, ranks = call.control.data_parallel_rank, self.engine.facts.data_parallel_ranks
        if rank is not None and rank >= ranks:
            raise invalid("data_parallel_rank", rank, f"a number from 0 to {ranks - 1}, the ranks of this engine")

    async def first_output(
        self,
        call: InferenceCall,
        context: RequestContext,
        prompt: Mapping[str, Any],
        params: Any,
        adapter: Adapter | None,
    ) -> Any:
        """The only output for a prompt that is rendered already."""

        async def begin(_: int) -> AsyncGenerator[Any, None]:
            return self.run(call, context, prompt, params, adapter)

        error = functools.partial(engine_failure, params, "")
        async with aclosing(generate_with_retry(begin, self.engine.has_failed, attempts=1, error=error)) as outputs:
            return await only(outputs)

    def run(
        self,
        call: InferenceCall,
        context: RequestContext,
        prompt: Mapping[str, Any],
        params: Any,
        adapter: Adapter | None,
        reading: ChatReading | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The engine's outputs for a rendered prompt, under an id that no other request has."""
        request_id = f"{context.request_id}-{random_id()}"
        control = call.control
        options = RunOptions(
            request_id,
            adapter,
            control.priority,
            context.trace_headers if self.engine.facts.traces else None,
            control.session_id,
            control.data_parallel_rank,
            reading.engine_options(prompt.get("prompt_token_ids") or ()) if reading is not None else None,
        )
        return self.engine.run(prompt, params, options)


async def only(outputs: AsyncGenerator[Any, None]) -> Any:
    """The last of ``outputs``.

    Raises:
        UnavailableError: there is none.
    """
    last = None
    async for output in outputs:
        last = output
    if last is None:
        raise UnavailableError("the engine ended the request without an output; try again")
    return last
