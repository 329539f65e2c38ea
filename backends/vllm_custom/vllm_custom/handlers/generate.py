"""Generate text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from vllm_custom.chat import RenderedPrompt
from vllm_custom.contract.names import OUTPUT_IDS, REQUEST_METRICS
from vllm_custom.errors import InvalidRequestError
from vllm_custom.handlers.answers import Answers, AnswerTaker
from vllm_custom.handlers.base import Incoming, Parsed, check_stream
from vllm_custom.handlers.calls import EngineCalls, only
from vllm_custom.handlers.rows import RowReader
from vllm_custom.pooling import reject_pooling_request
from vllm_custom.request import InferenceCall, check_batch
from vllm_custom.request.context import RequestContext
from vllm_custom.responses import Responder, ResponseDelta, needs_logprobs
from vllm_custom.runtime.async_utils import gather_all
from vllm_custom.sampling import SamplingBuilder, check_prompt_logprobs
from vllm_custom.structured_outputs import ConstraintCompiler


class GenerateHandler:
    """Serves models that generate."""

    def __init__(
        self,
        calls: EngineCalls,
        rows: RowReader,
        sampling: SamplingBuilder,
        constraints: ConstraintCompiler,
        answers: Answers,
        *,
        decoupled: bool,
        max_prompt_logprobs: int,
    ) -> None:
        """``decoupled``: whether a request may have several responses; the other is MAX_PROMPT_LOGPROBS."""
        self._calls = calls
        self._rows = rows
        self._sampling = sampling
        self._constraints = constraints
        self._answers = answers
        self._decoupled = decoupled
        self._max_prompt_logprobs = max_prompt_logprobs
        facts = calls.engine.facts
        self._pooling_names = (*facts.pooling_fields, *facts.scoring_fields)

    def parse(self, incoming: Incoming) -> Parsed:
        """All rows, and what holds for the request as a whole."""
        calls = self._rows.read(incoming)
        for call in calls:
            reject_pooling_request(call, self._pooling_names)
        check_batch(calls)
        if calls[0].stream:
            check_stream(decoupled=self._decoupled)
            if len(calls) > 1:
                raise InvalidRequestError(f"stream: expected one row with stream: true, got a batch of {len(calls)}")
        return self._rows.parsed(incoming, calls)

    async def run(self, calls: Sequence[InferenceCall], responder: Responder, context: RequestContext) -> None:
        """One response for all rows, or a stream for the only one."""
        if calls[0].stream:
            await self._stream(calls[0], responder, context)
        else:
            responder.finish(await gather_all(self._final(call, context) for call in calls))

    async def _stream(self, call: InferenceCall, responder: Responder, context: RequestContext) -> None:
        async with self._running(call, context) as running:
            async for output in running.outputs:
                delta = [running.delta(output)]
                responder.finish(delta) if output.finished else responder.push(delta)

    async def _final(self, call: InferenceCall, context: RequestContext) -> ResponseDelta:
        """The one output of a request that is not streamed, the prompt before it where that is asked for."""
        async with self._running(call, context) as running:
            delta = running.delta(await only(running.outputs))
        exclude = running.prompt.templated if call.exclude_input is None else call.exclude_input
        if not exclude:
            delta.prepend(running.prompt.text)
        return delta

    @asynccontextmanager
    async def _running(self, call: InferenceCall, context: RequestContext) -> AsyncIterator[_Running]:
        """Cheap checks first; then the request in the engine."""
        await self._calls.loras.check(call.control.lora_name)
        plan = self._calls.prompts.plan(call)
        constraint = await self._constraints.read(call.control)
        structured, source = (constraint.params, constraint.source) if constraint else (None, "")
        given = dict(call.sampling)
        if needs_logprobs(given, call.additional_outputs):
            given["logprobs"] = 0
        reading = self._answers.begin(call, plan, structured)
        if reading is not None:
            given |= reading.sampling
            structured, plan = reading.constraint, replace(plan, tools=reading.tools)
        sampling = self._sampling.build(given, structured, stream=call.stream, templated=plan.templated)
        async with self._calls.outputs(call, context, plan, sampling, source, reading) as (outputs, prompt):
            check_prompt_logprobs(sampling, prompt.tokens, self._max_prompt_logprobs)
            taker = AnswerTaker(reading, call, sampling.n) if reading is not None else None
            yield _Running(call, outputs, prompt, sampling.n, taker)


@dataclass(frozen=True)
class _Running:
    """A request in the engine: its outputs, its prompt and n; ``taker`` where its answers are taken apart."""

    call: InferenceCall
    outputs: AsyncGenerator[Any, None]
    prompt: RenderedPrompt
    sequences: int
    taker: AnswerTaker | None

    def delta(self, output: Any) -> ResponseDelta:
        """What is new, as a response."""
        asked = self.call.additional_outputs
        delta = ResponseDelta.from_output(
            output,
            self.sequences,
            logprobs=not needs_logprobs(self.call.sampling, asked),
            token_ids=OUTPUT_IDS in asked,
            figures=REQUEST_METRICS in asked,
        )
        if self.taker is not None:
            take = self.taker.piece if self.call.stream else self.taker.whole
            take(output, delta)
        return delta
