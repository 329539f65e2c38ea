"""Scores of pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_custom.handlers.base import Incoming, Parsed
from vllm_custom.handlers.calls import EngineCalls
from vllm_custom.handlers.rows import RowReader
from vllm_custom.pooling import PairScorer, PooledOutput, PoolingBuilder, RenderedPairs
from vllm_custom.request import InferenceCall, check_batch
from vllm_custom.request.context import RequestContext
from vllm_custom.responses import Responder
from vllm_custom.runtime.async_utils import gather_all


class ScoringHandler:
    """Serves one score for each document of each row."""

    def __init__(self, calls: EngineCalls, rows: RowReader, pooling: PoolingBuilder, scorer: PairScorer) -> None:
        self._calls = calls
        self._rows = rows
        self._pooling = pooling
        self._scorer = scorer

    def parse(self, incoming: Incoming) -> Parsed:
        """All rows; what has no effect on pairs is refused."""
        calls = self._rows.read(incoming)
        self._pooling.check(calls)
        check_batch(calls)
        return self._rows.parsed(incoming, calls)

    async def run(self, calls: Sequence[InferenceCall], responder: Responder, context: RequestContext) -> None:
        """One response for all rows. All pairs are rendered before the first goes to the engine: one may be refused."""
        for call in calls:
            await self._calls.loras.check(call.control.lora_name)
        rows = await gather_all(self._scorer.render(call, call.pairs) for call in calls if call.pairs is not None)
        scored = (self._scored(call, row, context) for call, row in zip(calls, rows, strict=True))
        responder.finish(await gather_all(scored))

    async def _scored(self, call: InferenceCall, row: RenderedPairs, context: RequestContext) -> PooledOutput:
        async with self._calls.loras.use(call.control.lora_name) as adapter:
            jobs = (self._calls.first_output(call, context, *prompt, adapter) for prompt in row.prompts)
            return await self._scorer.output(row, await gather_all(jobs))
