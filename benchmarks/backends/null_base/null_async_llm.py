"""An engine without a model: an AsyncLLM that gives every open request one token per step, at a fixed rate.

Prompts are rendered by vLLM's real renderer, and outputs wait in vLLM's own collector, so all that is missing is the
model and the process that runs it.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector
from vllm.v1.metrics.loggers import StatLoggerManager
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, SchedulerStats

# The folder is on the path, and in no package.
null_inputs: Any = importlib.import_module("null_inputs")

INTERVAL_SECONDS = float(os.environ.get("NULL_ENGINE_INTERVAL_MS", "10")) / 1000
# What vLLM's output processor would cost the event loop per token; 0 leaves it out.
WORK_SECONDS = float(os.environ.get("NULL_ENGINE_WORK_US", "0")) / 1_000_000

# Whether vLLM's loggers are told of each step, as by vLLM's own engine.
STATISTICS = os.environ.get("NULL_ENGINE_STATS") == "1"

_TOKENS = "prompt_token_ids"


@dataclass
class _Sequence:
    """One open request."""

    prompt_token_ids: list[int]
    max_tokens: int
    kind: RequestOutputKind
    collector: RequestOutputCollector
    done: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    asked_logprobs: int | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)

    def step(self, request_id: str) -> bool:
        """Make the next token; True after the last one."""
        piece = f" {self.done}"
        self.done += 1
        finished = self.done >= self.max_tokens
        made = self._logprobs(piece)
        if self.kind is not RequestOutputKind.DELTA:
            self.text += piece
            self.token_ids.append(self.done)
            self.logprobs += made
            made = self.logprobs
            piece, tokens = self.text, self.token_ids
        else:
            tokens = [self.done]
        if finished or self.kind is not RequestOutputKind.FINAL_ONLY:
            logprobs = None if self.asked_logprobs is None else made
            reason = "length" if finished else None
            completion = CompletionOutput(
                0, piece, tokens, cumulative_logprob=None, logprobs=logprobs, finish_reason=reason
            )
            self.collector.put(RequestOutput(request_id, None, self.prompt_token_ids, None, [completion], finished))
        return finished

    def _logprobs(self, piece: str) -> list[dict[int, Logprob]]:
        """Of the token that was made last, and of as many others as were asked for."""
        if self.asked_logprobs is None:
            return []
        ranks = range(self.asked_logprobs + 1)
        return [{self.done + rank: Logprob(-0.5 - rank, rank + 1, piece if rank == 0 else "other") for rank in ranks}]


def null_client(*_arguments: Any) -> Any:
    """Of vLLM's client as much as is told that the host of an engine has gone."""
    resources = SimpleNamespace(engine_dead=False, output_queue_task=None)
    return SimpleNamespace(resources=resources, shutdown=lambda: None)


class NullEngine(AsyncLLM):  # type: ignore[misc]
    """What a vLLM backend holds in the place of AsyncLLM."""

    def __init__(self, vllm_config: Any) -> None:
        self.vllm_config = vllm_config
        self.model_config = vllm_config.model_config
        self.scheduler_config = vllm_config.scheduler_config
        self.observability_config = vllm_config.observability_config
        self.io_processor = None
        null_inputs.equip(self, vllm_config)
        self.log_stats = STATISTICS
        self.logger_manager: Any = StatLoggerManager(vllm_config, enable_default_loggers=False) if STATISTICS else None
        self.log_requests = False
        self.engine_core = null_client()
        self.output_handler: asyncio.Task[None] | None = None
        self._open: dict[str, _Sequence] = {}
        self._ticker: asyncio.Task[None] | None = None

    @classmethod
    def from_engine_args(cls, engine_args: Any, **_options: Any) -> NullEngine:
        return cls(engine_args.create_engine_config())

    @classmethod
    def from_vllm_config(cls, vllm_config: Any, **_options: Any) -> NullEngine:
        return cls(vllm_config)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **_options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """One output per step and request, as ``sampling_params.output_kind`` asks for them."""
        kind = sampling_params.output_kind
        collector = null_inputs.collector(kind, request_id)
        if self.errored:
            raise EngineDeadError
        known = (
            prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else getattr(prompt, "prompt_token_ids", None)
        )
        ids = list(known or [0])
        asked, length = sampling_params.logprobs, sampling_params.max_tokens or 16
        self._open[request_id] = _Sequence(ids, length, kind, collector, asked_logprobs=asked)
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.ensure_future(self._tick())
        try:
            finished = False
            while not finished:
                output = collector.get_nowait() or await collector.get()
                finished = output.finished
                yield output
        finally:
            self._open.pop(request_id, None)

    async def _tick(self) -> None:
        """Steps at fixed times, as long as requests are open; late ones are made up for: an engine does not wait."""
        due = time.monotonic()
        while self._open:
            due += INTERVAL_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.errored:
                for sequence in self._open.values():
                    sequence.collector.put(EngineDeadError())
                return
            finished = 0
            for request_id, sequence in list(self._open.items()):
                if WORK_SECONDS:
                    _spin(WORK_SECONDS)
                if sequence.step(request_id):
                    self._open.pop(request_id, None)
                    finished += 1
            if self.logger_manager is not None:
                self._tell(len(self._open) + finished, finished)

    def _tell(self, tokens: int, finished: int) -> None:
        """One step of the engine, as vLLM's loggers are told of it."""
        stats = IterationStats()
        stats.num_generation_tokens = tokens
        stats.inter_token_latencies_iter = [INTERVAL_SECONDS] * tokens
        done = FinishedRequestStats(FinishReason.LENGTH, num_prompt_tokens=8, num_generation_tokens=64, e2e_latency=1.0)
        stats.finished_requests = [done] * finished
        self.logger_manager.record(SchedulerStats(num_running_reqs=len(self._open)), stats)

    @property
    def is_running(self) -> bool:
        return not self.errored

    @property
    def errored(self) -> bool:
        return bool(self.engine_core.resources.engine_dead)

    def get_tokenizer(self) -> Any:
        """To be awaited where vLLM's own has to be, which is so up to 0.13."""
        found = null_inputs.tokenizer_of(self)
        return _later(found) if inspect.iscoroutinefunction(AsyncLLM.get_tokenizer) else found

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def is_sleeping(self) -> bool:
        return False

    async def reset_mm_cache(self) -> None:
        """There is no cache."""

    async def check_health(self) -> None:
        """It is always well."""

    async def abort(self, request_id: str) -> None:
        self._open.pop(request_id, None)

    def shutdown(self, *_arguments: Any) -> None:
        if self._ticker is not None:
            self._ticker.cancel()


async def _later(value: Any) -> Any:
    return value


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
