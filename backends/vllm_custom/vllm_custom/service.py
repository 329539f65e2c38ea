"""The way of a request through the rooms: request -> media, chat -> sampling, lora -> engine -> responses."""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from vllm_custom import compat
from vllm_custom.attempts import engine_outputs
from vllm_custom.chat import PromptBuilder, PromptPlan, RenderedPrompt
from vllm_custom.config import Settings
from vllm_custom.contract import INPUTS
from vllm_custom.errors import (
    BackendError,
    InternalError,
    InvalidRequestError,
    RequestCancelledError,
    UnavailableError,
    UnsupportedError,
)
from vllm_custom.lifecycle import Admission, Arrival, Deadline, shortest
from vllm_custom.loops import call_on, gather_all
from vllm_custom.lora import LoraAdapters, LoraFolder
from vllm_custom.media import FrameSampling, HandleTable, MediaLoader, MediaMetrics, ignore, log_refusals
from vllm_custom.metrics import RequestMetrics
from vllm_custom.openai import (
    OPENAI_INPUT,
    OpenAIService,
    OpenAIStream,
    check_policy,
    parse_openai_request,
)
from vllm_custom.pooling import PairScorer, PooledOutput, PoolingBuilder, RenderedPairs, check_generating
from vllm_custom.request import (
    GenerateCall,
    Tensors,
    TypedInputs,
    parse_embedding_request,
    parse_request,
    read_tensors,
    split_batch,
)
from vllm_custom.responses import CancellationWatcher, ResponseDelta, ResponseStream, SenderPool
from vllm_custom.responses.build import ResponseBuilder
from vllm_custom.responses.sender import Log
from vllm_custom.sampling import ConstraintCompiler, SamplingBuilder, read_constraint, sampling_fields
from vllm_custom.tracing import trace_headers
from vllm_custom.upstream import UpstreamAdapter

_SENDER_THREADS = 2
_INPUT_NAMES = tuple(spec.name for spec in INPUTS)
_EMBEDDING_INPUT = "embedding_request"


class InferenceService:
    """Serves Triton requests on the engine of an initialised base model."""

    def __init__(
        self,
        upstream: UpstreamAdapter,
        settings: Settings,
        handles: HandleTable,
        chat_template: str | None,
        lora_dir: Path | None,
        pb_utils: Any,
    ) -> None:
        self._upstream = upstream
        self._settings = settings
        self._pb = pb_utils
        self._log: Log = pb_utils.Logger
        engine = upstream.engine
        limits = compat.media_limits(engine)
        counted = settings.report_custom_metrics and bool(limits)
        self._metrics = MediaMetrics(pb_utils, settings.model_name, self._log.log_error) if counted else None
        observe = log_refusals(self._log.log_warn, self._metrics.observe if self._metrics else ignore)
        self._media = MediaLoader(
            settings,
            limits,
            observe=observe,
            audio_rate=compat.audio_rate(engine),
            default_frames=FrameSampling.parse(compat.frame_sampling(engine), "model.json: media_io_kwargs.video."),
        )
        if confinement := self._media.start():
            self._log.log_info(f"[vllm_custom] {confinement}")
        tasks = asyncio.run_coroutine_threadsafe(compat.supported_tasks(engine), upstream.event_loop).result()
        self._pooling = None
        if "generate" not in tasks:
            pairs = PairScorer(engine, tasks, chat_template, settings.score_max_documents)
            self._pooling = PoolingBuilder(engine, tasks, pairs)
        self._pooling_fields = compat.pooling_fields() | compat.scoring_fields()
        self._prompts = PromptBuilder(
            engine, self._media, handles, chat_template, add_generation_prompt=self._pooling is None
        )
        self._sampling = SamplingBuilder(engine)
        check = functools.partial(compat.check_structured_outputs, engine)
        self._constraints = ConstraintCompiler(check, xgrammar=compat.prefers_xgrammar(engine))
        fields = self._pooling_fields | sampling_fields()
        self._field_names = list(fields)
        self._typed = TypedInputs(settings.declared_inputs - set(_INPUT_NAMES), fields)
        self._admission = Admission(settings.max_inflight_requests)
        folder = LoraFolder(lora_dir, copies=compat.on_one_host(engine)) if lora_dir else None
        self._loras = LoraAdapters(engine, upstream.adapters(), enabled=upstream.lora_enabled, folder=folder)
        media, log = self._media, self._log.log_error
        building = OpenAIService.build(engine, settings, chat_template, media, handles, self._loras, log)
        self._openai = asyncio.run_coroutine_threadsafe(building, upstream.event_loop).result()
        builder = ResponseBuilder(pb_utils, settings.declared_outputs, batched=settings.max_batch_size > 0)
        self._senders = SenderPool(builder, self._log, _SENDER_THREADS)
        self._cancellation = CancellationWatcher()
        counts = settings.report_custom_metrics
        self._counts = RequestMetrics(pb_utils, settings.model_name, self._log.log_error) if counts else None
        self._unloading = False

    def submit(self, request: Any) -> None:
        """Take one request; called by Triton's execute thread. Every outcome reaches the request's own sender."""
        arrival = Arrival.of(request, compat.random_request_id)
        try:
            self._admission.enter()
        except UnavailableError as error:
            self._stream(request, arrival).fail(error)
            return
        # Before the answer is sent: whoever waits for it may send the next request at once.
        stream = self._stream(request, arrival, on_final=self._admission.leave)
        try:
            if self._upstream.shutting_down:
                raise UnavailableError(f"model {self._settings.model_name} is being unloaded")
            work = self._work(request, stream, arrival)
        except Exception as error:
            stream.fail(self._explain(error, arrival.request_id))
            return
        asyncio.run_coroutine_threadsafe(work, self._upstream.event_loop)

    def close(self) -> None:
        """Let the sender threads finish. The base has drained its requests before."""
        self._cancellation.close()
        self._senders.close()
        self._media.close()
        self._loras.close()
        for metrics in (self._metrics, self._counts):
            if metrics is not None:
                metrics.close()

    def _stream(self, request: Any, arrival: Arrival, on_final: Callable[[], None] = lambda: None) -> ResponseStream:
        """The way out of ``request``, which holds the base's shutdown until its final response is sent."""
        loop = self._upstream.event_loop
        call_on(loop, self._upstream.request_started)
        kind = OpenAIStream if self._has(request, OPENAI_INPUT) else ResponseStream

        def on_done(error: BackendError | None) -> None:
            if self._counts is not None:
                self._counts.observe(error)
            call_on(loop, self._upstream.request_finished)

        return kind(
            self._senders,
            request.get_response_sender(),
            on_done=on_done,
            on_final=on_final,
            request_id=arrival.request_id,
        )

    def _has(self, request: Any, name: str) -> bool:
        return self._pb.get_input_tensor_by_name(request, name) is not None

    def _work(self, request: Any, stream: ResponseStream, arrival: Arrival) -> Coroutine[Any, Any, None]:
        """The coroutine that serves ``request``. Reading and parsing happens here, off the event loop."""
        tensors = read_tensors(request, self._pb.get_input_tensor_by_name, (*_INPUT_NAMES, *self._typed.names))
        rows = split_batch(tensors) if self._settings.max_batch_size > 0 else [tensors]
        parameters = request.parameters()
        if isinstance(stream, OpenAIStream):
            return self._openai_work(request, rows, parameters, stream, arrival)
        calls = [self._parse(row, parameters) for row in rows]
        if self._pooling is not None:
            self._pooling.check(calls)
        if calls[0].stream and not self._settings.decoupled:
            raise UnsupportedError(
                "stream: true needs the decoupled transaction policy; this model has decoupled: false"
            )
        if calls[0].stream and len(calls) > 1:
            raise InvalidRequestError(f"stream: true takes one row, got a batch of {len(calls)}")
        stream.additional_outputs = calls[0].additional_outputs
        if compat.traces(self._upstream.engine):
            arrival = arrival.traced(trace_headers(request, calls[0].control.trace_headers))
        timeout_us = shortest(request.timeout(), *(call.control.timeout for call in calls))
        return self._serve(self._generate(calls, stream, arrival), stream, arrival, Deadline(arrival, timeout_us))

    def _openai_work(
        self, request: Any, rows: Sequence[Tensors], parameters: str, stream: OpenAIStream, arrival: Arrival
    ) -> Coroutine[Any, Any, None]:
        if len(rows) > 1:
            raise InvalidRequestError(f"{OPENAI_INPUT} takes one row, got a batch of {len(rows)}")
        call = parse_openai_request(rows[0], parameters)
        check_policy(call, decoupled=self._settings.decoupled)
        work = self._openai.serve(call, stream, arrival.request_id)
        return self._serve(work, stream, arrival, Deadline(arrival, shortest(request.timeout(), call.timeout)))

    def _parse(self, row: Tensors, parameters: str) -> GenerateCall:
        if _EMBEDDING_INPUT in row:
            call = parse_embedding_request(row)
        else:
            call = parse_request(row, parameters, self._field_names, self._typed.values(row))
        if self._pooling is None:
            check_generating(call, tuple(self._pooling_fields))
        return call

    async def _serve(
        self, work: Coroutine[Any, Any, None], stream: ResponseStream, arrival: Arrival, deadline: Deadline
    ) -> None:
        """Run ``work``, which answers through ``stream``; whatever ends it early is answered here."""
        # Not before the task runs: one that is cancelled earlier would never answer.
        task = asyncio.current_task()
        if task is not None:
            self._cancellation.watch(stream, functools.partial(call_on, self._upstream.event_loop, task.cancel))
        try:
            with deadline:
                await self._check_health()
                await work
        except asyncio.CancelledError:
            gone = RequestCancelledError("the request was cancelled")
            stream.fail(self._explain(deadline.error() if deadline.expired else gone, arrival.request_id))
        except Exception as error:
            stream.fail(self._explain(error, arrival.request_id))
        finally:
            work.close()  # it may not have begun
            self._cancellation.forget(stream)

    async def _generate(self, calls: Sequence[GenerateCall], stream: ResponseStream, arrival: Arrival) -> None:
        if calls[0].stream:
            await self._serve_stream(calls[0], stream, arrival)
        elif self._pooling is not None and calls[0].pairs is not None:
            stream.finish(await self._scored(calls, arrival, self._pooling.pairs))
        else:
            stream.finish(await gather_all(self._final(call, arrival) for call in calls))

    async def _serve_stream(self, call: GenerateCall, stream: ResponseStream, arrival: Arrival) -> None:
        async with self._outputs(call, arrival) as (outputs, _, n):
            async for output in outputs:
                delta = [ResponseDelta.from_output(output, n)]
                stream.finish(delta) if output.finished else stream.push(delta)

    async def _final(self, call: GenerateCall, arrival: Arrival) -> ResponseDelta:
        """The one output of a request that is not streamed, the prompt before it where that is asked for."""
        if self._pooling is not None:
            return await self._pooled(call, arrival, self._pooling)
        async with self._outputs(call, arrival) as (outputs, prompt, n):
            delta = None
            async for output in outputs:
                delta = ResponseDelta.from_output(output, n)
        if delta is None:
            raise UnavailableError("the engine ended the request without an output")
        exclude = prompt.templated if call.exclude_input is None else call.exclude_input
        if not exclude:
            delta.prepend(prompt.text)
        return delta

    async def _pooled(self, call: GenerateCall, arrival: Arrival, pooling: PoolingBuilder) -> ResponseDelta:
        await self._loras.check(call.control.lora_name)
        plan = self._prompts.plan(call)
        task = pooling.task(call)
        params = pooling.build(call.sampling, task)
        async with self._engine_outputs(call, arrival, plan, params) as (outputs, _):
            async for output in outputs:
                return PooledOutput.of(output, task, as_text=call.embedding_request)
        raise UnavailableError("the engine ended the request without an output")

    async def _scored(self, calls: Sequence[GenerateCall], arrival: Arrival, scorer: PairScorer) -> list[ResponseDelta]:
        """The scores of each row. All pairs are rendered before the first goes to the engine: one may be refused."""
        for call in calls:
            await self._loras.check(call.control.lora_name)
        rows = await gather_all(scorer.render(call, call.pairs) for call in calls if call.pairs is not None)
        return await gather_all(self._score(call, arrival, row, scorer) for call, row in zip(calls, rows, strict=True))

    async def _score(
        self, call: GenerateCall, arrival: Arrival, row: RenderedPairs, scorer: PairScorer
    ) -> ResponseDelta:
        async def encode(prompt: Mapping[str, Any], params: Any) -> Any:
            async def begin(_: int) -> AsyncGenerator[Any, None]:
                return self._run(call, arrival, prompt, params, lora)

            async with aclosing(engine_outputs(begin, compat.has_failed)) as outputs:
                async for output in outputs:
                    return output
            raise UnavailableError("the engine ended the request without an output")

        async with self._loras.use(call.control.lora_name) as lora:
            return await scorer.output(row, await gather_all(encode(*prompt) for prompt in row.prompts))

    @asynccontextmanager
    async def _outputs(self, call: GenerateCall, arrival: Arrival) -> AsyncIterator[tuple[Any, Any, int]]:
        """Cheap checks first, then what :meth:`_engine_outputs` does: the engine's outputs, the prompt and n."""
        await self._loras.check(call.control.lora_name)
        plan = self._prompts.plan(call)
        structured = await self._constraints.compile(read_constraint(call.control))
        sampling = self._sampling.build(call.sampling, structured, stream=call.stream, templated=plan.templated)
        async with self._engine_outputs(call, arrival, plan, sampling) as (outputs, prompt):
            yield outputs, prompt, sampling.n

    @asynccontextmanager
    async def _engine_outputs(
        self, call: GenerateCall, arrival: Arrival, plan: PromptPlan, params: Any
    ) -> AsyncIterator[tuple[Any, RenderedPrompt]]:
        """Adapter, media and prompt, then the engine's outputs.

        Leaving the context early closes the engine's generator, which aborts the request there.
        """
        async with self._loras.use(call.control.lora_name) as lora:
            prompt = await self._prompts.render(call, plan)

            async def begin(attempt: int) -> AsyncGenerator[Any, None]:
                rendered = prompt if attempt == 0 else await self._prompts.render(call, plan)
                return self._run(call, arrival, rendered.engine_input, params, lora)

            async with aclosing(engine_outputs(begin, compat.has_failed)) as outputs:
                yield outputs, prompt

    def _run(
        self, call: GenerateCall, arrival: Arrival, engine_input: Mapping[str, Any], params: Any, lora: Any
    ) -> AsyncGenerator[Any, None]:
        return compat.run(
            self._upstream.engine,
            engine_input,
            params,
            f"{arrival.request_id}-{compat.random_request_id()}",
            pooling=self._pooling is not None,
            lora_request=lora,
            priority=call.control.priority,
            trace_headers=arrival.trace_headers,
        )

    async def _check_health(self) -> None:
        """With ENABLE_VLLM_HEALTH_CHECK: refuse, and unload the model, once the engine has died (as official)."""
        if not self._settings.enable_vllm_health_check:
            return
        try:
            await self._upstream.engine.check_health()
        except Exception as error:
            if not self._unloading:
                self._unloading = True
                self._log.log_error(f"[vllm_custom] the engine is not healthy, the model is unloaded: {error!r}")
                unload = functools.partial(self._pb.unload_model, self._settings.model_name)
                await asyncio.get_running_loop().run_in_executor(None, unload)
            raise UnavailableError("the vLLM engine is not healthy; the model is being unloaded") from error

    def _explain(self, error: Exception, request_id: str) -> BackendError:
        """What the client is told about ``error``; the log gets the rest."""
        known = error if isinstance(error, BackendError) else compat.engine_error(error)
        if known is not None:
            self._log.log_info(f"[vllm_custom] request {request_id} failed: {known}")
            return known
        trace = "".join(traceback.format_exception(error))
        self._log.log_error(f"[vllm_custom] request {request_id} failed: {trace}")
        return InternalError(f"internal error, request id {request_id}; the server's log has the details")
