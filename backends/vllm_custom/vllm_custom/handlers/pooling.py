"""Embeddings, classes and rewards of pooling models."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_custom.handlers.base import Incoming, Parsed
from vllm_custom.handlers.calls import EngineCalls, only
from vllm_custom.handlers.rows import RowReader
from vllm_custom.pooling import PooledOutput, PoolingBuilder
from vllm_custom.request import InferenceCall, check_batch
from vllm_custom.request.context import RequestContext
from vllm_custom.responses import Responder
from vllm_custom.runtime.async_utils import gather_all


class PoolingHandler:
    """Serves one vector, or one per token, for each row."""

    def __init__(self, calls: EngineCalls, rows: RowReader, pooling: PoolingBuilder) -> None:
        self._calls = calls
        self._rows = rows
        self._pooling = pooling

    def parse(self, incoming: Incoming) -> Parsed:
        """All rows; what needs a model that generates is refused."""
        calls = self._rows.read(incoming)
        self._pooling.check(calls)
        check_batch(calls)
        return self._rows.parsed(incoming, calls)

    async def run(self, calls: Sequence[InferenceCall], responder: Responder, context: RequestContext) -> None:
        """One response for all rows."""
        responder.finish(await gather_all(self._pooled(call, context) for call in calls))

    async def _pooled(self, call: InferenceCall, context: RequestContext) -> PooledOutput:
        await self._calls.loras.check(call.control.lora_name)
        plan = self._calls.prompts.plan(call)
        task = self._pooling.task(call)
        params = self._pooling.build(call.sampling, task)
        async with self._calls.outputs(call, context, plan, params) as (outputs, _):
            return PooledOutput.of(await only(outputs), task, as_text=call.embedding_request)
