"""The composition root for requests by Triton: what a model is put together from once its engine runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from vllm_custom.chat import PromptBuilder
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import Engine
from vllm_custom.engine.answers import AnswerParsers
from vllm_custom.engine.host import Share
from vllm_custom.errors import BackendError
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
from vllm_custom.media.handles import MediaHandles
from vllm_custom.observability import Log
from vllm_custom.openai.service import application_arguments
from vllm_custom.pooling import PairScorer, PoolingBuilder
from vllm_custom.sampling import SamplingBuilder
from vllm_custom.serving.common import Common
from vllm_custom.serving.common import ModelFiles as ModelFiles
from vllm_custom.serving.common import wait_on as wait_on
from vllm_custom.serving.engine_watch import Restart
from vllm_custom.serving.health import REPLACED
from vllm_custom.serving.life import Surroundings
from vllm_custom.serving.protocols import Base
from vllm_custom.serving.runner import Runner
from vllm_custom.triton.cancellation import CancellationWatcher
from vllm_custom.triton.engine_events import EngineEvent, EngineEventMetrics
from vllm_custom.triton.engine_metrics import EngineMetrics, Source
from vllm_custom.triton.engine_source import EngineSource
from vllm_custom.triton.front_metrics import FrontMetrics
from vllm_custom.triton.responses import ResponseBuilder
from vllm_custom.triton.sender import SenderPool
from vllm_custom.triton.tally import Tally
from vllm_custom.triton.transport import TritonTransport

_SENDER_THREADS = 2


class Service:
    """Everything that serves one model to Triton. ``runner`` takes its requests."""

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
        restart: Restart | None = None,
    ) -> None:
        """
        Args:
            engine: runs.
            base: the model class that owns the engine and its event loop.
            settings: of config.pbtxt.
            files: next to it.
            handles: through which the engine's renderer finds decoded media.
            pb_utils: Triton's module.
            merge: whether what waits of a stream is sent as one response.
            share: what this process has in common with others that serve the model; None where it is the only one.
            restart: starts the engine again when it has died; None where nothing does.
        """
        labels = {"model": settings.model_name, "version": files.version}
        self._engine_events: EngineEventMetrics | None = None
        if settings.report_custom_metrics:
            self._engine_events = EngineEventMetrics(pb_utils, labels, pb_utils.Logger.log_error)
        unload = functools.partial(pb_utils.unload_model, settings.model_name)
        self._common = common = Common(
            engine,
            base.event_loop,
            settings,
            files,
            handles,
            pb_utils,
            share=share,
            unload=unload if settings.enable_vllm_health_check else None,
            restart=restart,
            observe_engine=self._observe_engine,
        )
        log = common.log
        rows = RowReader(engine, common.settings, common.rules, traces=common.observer.traces)
        builder = ResponseBuilder(pb_utils, settings.declared_outputs, batched=settings.max_batch_size > 0)
        tally = Tally(lambda: common.admission.inside)
        self._senders = SenderPool(builder, log, _SENDER_THREADS, merge=merge, note=tally.sent)
        self._watch = CancellationWatcher()
        surroundings = Surroundings(
            model_name=settings.model_name,
            base=base,
            engine=engine,
            transport=TritonTransport(self._senders, rows.input_names, decoupled=settings.decoupled),
            router=_router(engine, common, files, rows, handles),
            admission=common.admission,
            health=common.health,
            watch=self._watch,
            log=log,
            observer=common.observer,
            observe=functools.partial(_observe, common, tally),
        )
        self.runner = Runner(surroundings)
        self._metrics: list[FrontMetrics | EngineMetrics] = []
        if settings.report_custom_metrics:
            self._metrics = _metrics(engine, tally, share, pb_utils, labels, log)
        common.watch.start()

    @property
    def ready(self) -> bool:
        """Whether the engine runs. Cheap; from any thread."""
        return self._common.health.ready

    def stop_watching_engine(self) -> None:
        """The engine is about to be ended."""
        self._common.watch.close()

    def make_way(self) -> None:
        """The engine is about to end for another one of this model. No request begins, and it is not started again."""
        self._common.watch.close()
        self._common.health.falls(REPLACED)
        self._observe_engine(EngineEvent.ENDED)

    def close(self) -> None:
        """Let the threads finish. The base has drained its requests before."""
        self._common.watch.close()
        self._watch.close()
        self._senders.close()
        for metrics in (*self._metrics, self._engine_events):
            if metrics is not None:
                metrics.close()
        self._common.close()

    def _observe_engine(self, event: EngineEvent) -> None:
        if self._engine_events is not None:
            self._engine_events.observe(event)


def _observe(common: Common, tally: Tally, error: BackendError | None, seconds: float) -> None:
    tally.ended(seconds)
    common.observe(error)


def _metrics(
    engine: Engine, tally: Tally, share: Share | None, pb_utils: Any, labels: Mapping[str, str], log: Log
) -> list[FrontMetrics | EngineMetrics]:
    """What REPORT_CUSTOM_METRICS adds for requests by Triton: figures of the engine, of responses, and of fronts."""
    sources: list[Source] = [tally]
    if engine.statistics is not None:
        sources.append(EngineSource(engine.statistics, share.newest if share is not None else None))
    found: list[FrontMetrics | EngineMetrics] = [EngineMetrics(pb_utils, labels, sources, log.log_error)]
    if share is not None:
        fronts = FrontMetrics(pb_utils, labels, log.log_error)
        share.when_fronts_change(fronts.observe)
        found.append(fronts)
    return found


def _parsers(engine: Engine, settings: Settings, log: Log) -> AnswerParsers | None:
    """Of a model that generates; what vLLM cannot make of config.pbtxt its OpenAI server has refused before."""
    if not engine.facts.generates:
        return None
    try:
        return engine.answer_parsers(application_arguments(settings, None))
    except Exception as error:
        log.log_error(f"[vllm_custom] the parsers for reasoning and tool calls cannot be used: {error!r}")
        return None


def _router(engine: Engine, common: Common, files: ModelFiles, rows: RowReader, handles: MediaHandles) -> Router:
    """The handlers that this model needs."""
    generates, settings = engine.facts.generates, common.settings
    prompts = PromptBuilder(
        engine,
        common.media,
        handles,
        files.chat_template,
        add_generation_prompt=generates,
        render_seconds=settings.render_timeout_seconds,
    )
    calls = EngineCalls(engine, prompts, common.loras)
    batched = settings.max_batch_size > 0
    openai_handler = OpenAIHandler(
        common.openai, common.rules, decoupled=settings.decoupled, batched=batched, traces=engine.facts.traces
    )
    if generates:
        main: Handler = GenerateHandler(
            calls,
            rows,
            SamplingBuilder(engine),
            common.constraints,
            Answers(_parsers(engine, settings, common.log)),
            decoupled=settings.decoupled,
            max_prompt_logprobs=settings.max_prompt_logprobs,
        )
        return Router(main, openai_handler)
    scorer = PairScorer(engine, files.chat_template, settings.score_max_documents)
    pooling = PoolingBuilder(engine, scorer)
    main = PoolingHandler(calls, rows, pooling)
    return Router(main, openai_handler, ScoringHandler(calls, rows, pooling, scorer))
