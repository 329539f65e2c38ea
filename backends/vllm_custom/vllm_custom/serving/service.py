"""The composition root: what a model is put together from once its engine runs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from vllm_custom.chat import PromptBuilder
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import Engine
from vllm_custom.engine.answers import AnswerParsers
from vllm_custom.engine.host import Share
from vllm_custom.errors import BackendError, ConfigError
from vllm_custom.handlers import (
    Answers,
    EngineCalls,
    GenerateHandler,
    Handler,
    OpenAIHandler,
    PoolingHandler,
    Router,
    RowReader,
    ScoringHandler,
)
from vllm_custom.lora import LoraAdapters, LoraFolder
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoding import background_of
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.metrics import MediaMetrics, Observe, ignore, log_refusals
from vllm_custom.observability import Log, QueuedLog
from vllm_custom.openai import OpenAIService
from vllm_custom.openai.service import application_arguments
from vllm_custom.pooling import PairScorer, PoolingBuilder
from vllm_custom.request import ClientRules, ProcessorBounds
from vllm_custom.sampling import PromptLogprobs, SamplingBuilder
from vllm_custom.serving.admission import Admission
from vllm_custom.serving.health import Health
from vllm_custom.serving.life import Surroundings
from vllm_custom.serving.protocols import Base
from vllm_custom.serving.runner import Runner
from vllm_custom.serving.shares import share_of, with_all_caches
from vllm_custom.structured_outputs import ConstraintCompiler
from vllm_custom.triton.cancellation import CancellationWatcher
from vllm_custom.triton.door import TritonDoor
from vllm_custom.triton.front_metrics import FrontMetrics
from vllm_custom.triton.metrics import RequestMetrics
from vllm_custom.triton.responses import ResponseBuilder
from vllm_custom.triton.sender import SenderPool

_SENDER_THREADS = 2
_START_SECONDS = 600.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ModelFiles:
    """What was found beside config.pbtxt: the version, the text of CHAT_TEMPLATE, LORA_DIR, and multi_lora.json."""

    version: str = "1"
    chat_template: str | None = None
    lora_dir: Path | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    lora_enabled: bool = False

    def with_adapters(self, adapters: Mapping[str, str], *, enabled: bool) -> ModelFiles:
        """The same with what multi_lora.json says, and whether the engine runs with LoRA."""
        return replace(self, adapters=adapters, lora_enabled=enabled)


class Service:
    """Everything that serves one model. ``runner`` takes its requests."""

    def __init__(
        self,
        engine: Engine,
        base: Base,
        settings: Settings,
        files: ModelFiles,
        handles: MediaHandles,
        pb_utils: Any,
        *,
        merge: bool = True,
        share: Share | None = None,
    ) -> None:
        """
        Args:
            engine: runs.
            base: the model class that owns the engine and its event loop.
            settings: of config.pbtxt.
            files: beside it.
            handles: through which the engine's renderer finds decoded media.
            pb_utils: Triton's module.
            merge: whether what waits of a stream is sent as one response.
            share: what this process has in common with others that serve the model; None where it is the only one.
        """
        self._engine = engine
        if share is not None:
            settings = share_of(settings, share.fronts)
        log = self._log = QueuedLog(pb_utils.Logger)
        labels = {"model": settings.model_name, "version": files.version}
        self._media, self._media_metrics = _media(engine, settings, labels, log, pb_utils, share)
        if confinement := self._media.start():
            log.log_info(f"[vllm_custom] {confinement}")
        self._loras = _loras(engine, files, share)
        rules = _rules(engine, settings)
        rows = RowReader(engine, settings, rules)
        builder = ResponseBuilder(pb_utils, settings.declared_outputs, batched=settings.max_batch_size > 0)
        openai = wait_on(
            base.event_loop,
            OpenAIService.build(
                engine, settings, files.chat_template, self._media, handles, self._loras, log.log_error
            ),
        )
        self._checker = engine.constraint_checker(settings.structured_compile_seconds, log.log_error)
        constraints = ConstraintCompiler(
            engine,
            self._checker,
            max_bytes=settings.structured_max_bytes,
            seconds=settings.structured_compile_seconds,
        )
        if engine.facts.generates:
            engine.guard_constraints(constraints.accept)
            engine.guard_prompts(PromptLogprobs(settings.max_prompt_logprobs).check)
            asyncio.run_coroutine_threadsafe(self._checker.start(), base.event_loop)
        else:
            self._checker.close()
        answers = Answers(_parsers(engine, settings, log))
        router = _router(
            engine, settings, files, rules, rows, self._media, handles, self._loras, constraints, openai, answers
        )
        counted = settings.report_custom_metrics
        self._counts = RequestMetrics(pb_utils, labels, log.log_error) if counted else None
        self._front_metrics: FrontMetrics | None = None
        if counted and share is not None:
            self._front_metrics = FrontMetrics(pb_utils, labels, log.log_error)
            share.when_fronts_change(self._front_metrics.observe)
        self._senders = SenderPool(builder, log, _SENDER_THREADS, merge=merge)
        self._watch = CancellationWatcher()
        unload = functools.partial(pb_utils.unload_model, settings.model_name)
        surroundings = Surroundings(
            model_name=settings.model_name,
            base=base,
            engine=engine,
            door=TritonDoor(self._senders, rows.input_names, decoupled=settings.decoupled),
            router=router,
            admission=Admission(settings.max_inflight_requests, share.sequences if share else None),
            health=Health(engine, unload if settings.enable_vllm_health_check else None, log.log_error),
            watch=self._watch,
            log=log,
            observe=self._counts.observe if self._counts is not None else _uncounted,
        )
        self.runner = Runner(surroundings)

    def close(self) -> None:
        """Let the threads finish. The base has drained its requests before."""
        self._watch.close()
        self._senders.close()
        self._media.close()
        self._loras.close()
        self._checker.close()
        for metrics in (self._media_metrics, self._counts, self._front_metrics):
            if metrics is not None:
                metrics.close()
        self._log.close()
        self._engine.release()


def wait_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of ``work`` on the engine's event loop.

    Raises:
        ConfigError: it does not come; the model cannot be loaded.
    """
    running = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return running.result(_START_SECONDS)
    except (TimeoutError, FutureTimeoutError) as error:
        running.cancel()
        raise ConfigError(f"the engine did not answer within {_START_SECONDS:g} seconds of its start") from error


def _uncounted(error: BackendError | None) -> None:
    """Without REPORT_CUSTOM_METRICS nothing is counted."""


def _rules(engine: Engine, settings: Settings) -> ClientRules:
    facts = engine.facts
    return ClientRules.of(
        settings,
        template_arguments=facts.template_arguments,
        processor=ProcessorBounds(facts.min_pixels, facts.max_pixels),
        max_prompt_chars=facts.max_prompt_chars,
        max_prompt_tokens=facts.max_prompt_tokens,
        prompt_embeds_size=facts.prompt_embeds_size,
    )


def _media(
    engine: Engine, settings: Settings, labels: Mapping[str, str], log: Log, pb_utils: Any, share: Share | None
) -> tuple[MediaLoader, MediaMetrics | None]:
    facts = engine.facts
    counted = settings.report_custom_metrics and bool(facts.media_limits)
    metrics = MediaMetrics(pb_utils, labels, log.log_error) if counted else None
    observe: Observe = metrics.observe if metrics else ignore
    if share is not None:
        observe = with_all_caches(share.cache_bytes, observe)
    loader = MediaLoader(
        settings,
        facts.media_limits,
        observe=log_refusals(log.log_warn, observe),
        audio_rate=facts.audio_rate,
        default_frames=FrameSampling.parse(facts.frame_sampling, "model.json: media_io_kwargs.video."),
        vision=engine.vision_rules(),
        background=background_of(facts.image_options),
        shared=share,
    )
    return loader, metrics


def _loras(engine: Engine, files: ModelFiles, share: Share | None) -> LoraAdapters:
    folder = LoraFolder(files.lora_dir, copies=engine.facts.on_one_host) if files.lora_dir else None
    numbers = share.number if share is not None else None
    return LoraAdapters(engine, files.adapters, enabled=files.lora_enabled, folder=folder, numbers=numbers)


def _parsers(engine: Engine, settings: Settings, log: Log) -> AnswerParsers | None:
    """Of a model that generates; what vLLM cannot make of config.pbtxt its OpenAI server has refused before."""
    if not engine.facts.generates:
        return None
    try:
        return engine.answer_parsers(application_arguments(settings, None))
    except Exception as error:
        log.log_error(f"[vllm_custom] the parsers for reasoning and tool calls cannot be used: {error!r}")
        return None


def _router(
    engine: Engine,
    settings: Settings,
    files: ModelFiles,
    rules: ClientRules,
    rows: RowReader,
    media: MediaLoader,
    handles: MediaHandles,
    loras: LoraAdapters,
    constraints: ConstraintCompiler,
    openai: OpenAIService,
    answers: Answers,
) -> Router:
    """The handlers that this model needs."""
    generates = engine.facts.generates
    prompts = PromptBuilder(
        engine,
        media,
        handles,
        files.chat_template,
        add_generation_prompt=generates,
        render_seconds=settings.render_timeout_seconds,
    )
    calls = EngineCalls(engine, prompts, loras)
    batched = settings.max_batch_size > 0
    openai_handler = OpenAIHandler(openai, rules, decoupled=settings.decoupled, batched=batched)
    if generates:
        main: Handler = GenerateHandler(
            calls,
            rows,
            SamplingBuilder(engine),
            constraints,
            answers,
            decoupled=settings.decoupled,
            max_prompt_logprobs=settings.max_prompt_logprobs,
        )
        return Router(main, openai_handler)
    scorer = PairScorer(engine, files.chat_template, settings.score_max_documents)
    pooling = PoolingBuilder(engine, scorer)
    main = PoolingHandler(calls, rows, pooling)
    return Router(main, openai_handler, ScoringHandler(calls, rows, pooling, scorer))
