"""What serves a model, whether its requests come by Triton or by HTTP: media, adapters, rules, constraints, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from vllm_custom.contract.settings import Settings
from vllm_custom.engine import Engine
from vllm_custom.engine.host import Share
from vllm_custom.engine.protocol import ConstraintChecker
from vllm_custom.errors import BackendError, ConfigError
from vllm_custom.lora import LoraAdapters, LoraFolder
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoding import background_of
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.metrics import MediaMetrics, Observe, ignore, log_refusals
from vllm_custom.observability import JsonLogger, Log, Observer, QueuedLog, Tracer
from vllm_custom.openai import OpenAIService
from vllm_custom.request import ClientRules, ProcessorBounds
from vllm_custom.sampling import PromptLogprobs
from vllm_custom.serving.admission import Admission
from vllm_custom.serving.engine_watch import EngineWatch, Restart, Tries
from vllm_custom.serving.health import Health
from vllm_custom.serving.shares import share_of, with_all_caches
from vllm_custom.structured_outputs import ConstraintCompiler
from vllm_custom.triton.engine_events import EngineEvent
from vllm_custom.triton.metrics import RequestMetrics

_START_SECONDS = 600.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ModelFiles:
    """What was found next to config.pbtxt: the version, the text of CHAT_TEMPLATE, LORA_DIR, and multi_lora.json."""

    version: str = "1"
    chat_template: str | None = None
    lora_dir: Path | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    lora_enabled: bool = False

    def with_adapters(self, adapters: Mapping[str, str], *, enabled: bool) -> ModelFiles:
        """The same with what multi_lora.json says, and whether the engine runs with LoRA."""
        return replace(self, adapters=adapters, lora_enabled=enabled)


class Common:
    """Of one model in one process. Its attributes are for what reads requests."""

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        files: ModelFiles,
        handles: MediaHandles,
        triton: Any,
        *,
        share: Share | None = None,
        unload: Callable[[], None] | None = None,
        restart: Restart | None = None,
        observe_engine: Callable[[EngineEvent], None] = lambda _: None,
    ) -> None:
        """
        Args:
            engine: runs.
            loop: its event loop, which runs in another thread.
            settings: of config.pbtxt.
            files: next to it.
            handles: through which the engine's renderer finds decoded media.
            triton: Triton's module, or what has its ``Logger`` and its ``MetricFamily``.
            share: what this process has in common with others that serve the model; None where it is the only one.
            unload: asks Triton to unload the model when its engine has died; None where that is not wanted.
            restart: starts the engine again when it has died; None where nothing does.
            observe_engine: counts what becomes of the engine.
        """
        self._engine = engine
        if share is not None:
            settings = share_of(settings, share.fronts)
        self.settings = settings
        labels = {"model": settings.model_name, "version": files.version}
        log = self.log = QueuedLog(JsonLogger(labels) if settings.log_format == "json" else triton.Logger)
        tracer = Tracer.configured(settings.otlp_traces_endpoint)
        self.observer = Observer(labels, tracer, log.log_request if log.takes_requests else None)
        if self.observer.active:
            engine.observe_requests()
        self.media, self._media_metrics = _media(engine, settings, labels, log, triton, share)
        if confinement := self.media.start():
            log.log_info(f"[vllm_custom] {confinement}")
        self.loras = _loras(engine, files, share)
        self.rules = _rules(engine, settings)
        self.admission = Admission(settings.max_inflight_requests, share.sequences if share else None)
        parts = self.media, handles, self.loras, log.log_error, self.admission.hold
        self.openai = wait_on(loop, OpenAIService.build(engine, settings, files.chat_template, *parts))
        self._checker, self.constraints = _constraints(engine, settings, log, loop)
        self._counts = RequestMetrics(triton, labels, log.log_error) if settings.report_custom_metrics else None
        self.health = Health(
            engine,
            restart_seconds=restart.seconds if restart is not None and unload is None else None,
            wait_seconds=settings.engine_restart_wait_seconds,
            asks_engine=settings.enable_vllm_health_check,
        )
        self.watch = EngineWatch(
            engine,
            self.health,
            log,
            loop=loop,
            stall_seconds=0.0 if share is not None else settings.engine_stall_seconds,  # its host sees to that
            unload=unload,
            restart=restart,
            tries=Tries(settings.engine_restarts, settings.engine_restart_backoff_seconds),
            restarted=lambda: wait_on(loop, self._forget_adapters()),
            observe=observe_engine,
        )

    def observe(self, error: BackendError | None) -> None:
        """Count a request, by the error that it ended with, where REPORT_CUSTOM_METRICS is on."""
        if self._counts is not None:
            self._counts.observe(error)

    async def _forget_adapters(self) -> None:
        self.loras.engine_restarted()

    def close(self) -> None:
        """Let the threads finish. The requests have ended before."""
        self.watch.close()
        self.media.close()
        self.loras.close()
        self._checker.close()
        for metrics in (self._media_metrics, self._counts):
            if metrics is not None:
                metrics.close()
        self.observer.close()
        self.log.close()
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
    engine: Engine, settings: Settings, labels: Mapping[str, str], log: Log, triton: Any, share: Share | None
) -> tuple[MediaLoader, MediaMetrics | None]:
    facts = engine.facts
    counted = settings.report_custom_metrics and bool(facts.media_limits)
    metrics = MediaMetrics(triton, labels, log.log_error) if counted else None
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


def _constraints(
    engine: Engine, settings: Settings, log: Log, loop: asyncio.AbstractEventLoop
) -> tuple[ConstraintChecker, ConstraintCompiler]:
    """Compiles constraints; from then on the engine begins no request that is not checked."""
    checker = engine.constraint_checker(settings.structured_compile_seconds, log.log_error)
    compiler = ConstraintCompiler(
        engine, checker, max_bytes=settings.structured_max_bytes, seconds=settings.structured_compile_seconds
    )
    if engine.facts.generates:
        engine.guard_constraints(compiler.accept)
        engine.guard_prompts(PromptLogprobs(settings.max_prompt_logprobs).check)
        asyncio.run_coroutine_threadsafe(checker.start(), loop)
    else:
        checker.close()
    return checker, compiler


def _loras(engine: Engine, files: ModelFiles, share: Share | None) -> LoraAdapters:
    folder = LoraFolder(files.lora_dir, copies=engine.facts.on_one_host) if files.lora_dir else None
    numbers = share.number if share is not None else None
    return LoraAdapters(engine, files.adapters, enabled=files.lora_enabled, folder=folder, numbers=numbers)
