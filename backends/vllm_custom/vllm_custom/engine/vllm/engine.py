"""vLLM behind the protocol of :mod:`vllm_custom.engine.protocol`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from vllm_custom.engine.answers import AnswerParsers
from vllm_custom.engine.background import NO_STORAGE, Storage
from vllm_custom.engine.embeds import EmbedsLayout
from vllm_custom.engine.protocol import (
    Accept,
    Adapter,
    AdaptersInUse,
    Application,
    CheckPrompt,
    ConstraintChecker,
    ModelFacts,
    PairScoring,
    RunOptions,
)
from vllm_custom.engine.statistics import Statistics
from vllm_custom.engine.vision import VisionRules
from vllm_custom.engine.vllm import answers, constraints, media, openai, pooling, prompts, qwen, requests, sampling
from vllm_custom.engine.vllm.engine_limits import guard_engine
from vllm_custom.engine.vllm.host.reporting import report_scheduler
from vllm_custom.engine.vllm.older.answers import NoAnswerParsers, parses_in_pieces
from vllm_custom.engine.vllm.statistics import VllmStatistics
from vllm_custom.errors import BackendError, EngineDiedError, UnavailableError
from vllm_custom.kernel import engine_errors


class VllmEngine:
    """An AsyncLLM that runs, seen through the protocol. To be used on its event loop, but for ``is_dead``."""

    def __init__(self, llm: Any, facts: ModelFacts, compiling: constraints.CompileProcess | None = None) -> None:
        """``compiling``: where constraints will be compiled, started before the engine."""
        self._llm = llm
        self._compiling = compiling
        self._facts = facts
        self._statistics = VllmStatistics.of(llm)

    @classmethod
    async def attach(cls, llm: Any, compiling: constraints.CompileProcess | None = None) -> VllmEngine:
        """``llm``: the AsyncLLM, on whose event loop this runs; ``compiling`` as in ``__init__``."""
        guard_engine(llm)
        tasks = tuple(await llm.get_supported_tasks())
        generates = "generate" in tasks
        pixels = media.processor_bounds(llm)
        return cls(
            llm,
            ModelFacts(
                tasks=tasks,
                pooling_task=None if generates else pooling.pooling_task(llm, tasks),
                media_limits=media.media_limits(llm),
                audio_rate=media.audio_rate(llm),
                frame_sampling=media.frame_sampling(llm),
                image_options=media.image_options(llm),
                default_sampling=sampling.default_sampling(llm),
                max_tokens_limit=sampling.max_tokens_limit(llm),
                sampling_fields=sampling.sampling_fields(),
                pooling_fields=pooling.pooling_fields(),
                scoring_fields=pooling.scoring_fields(),
                has_chat_template=prompts.chat_template_of(llm) is not None,
                template_arguments=prompts.template_arguments(),
                max_prompt_chars=prompts.max_prompt_chars(llm),
                max_prompt_tokens=int(llm.model_config.max_model_len),
                prompt_embeds_size=prompts.embeds_size(llm),
                data_parallel_ranks=requests.data_parallel_ranks(llm),
                min_pixels=pixels[0],
                max_pixels=pixels[1],
                traces=requests.traces(llm),
                on_one_host=requests.on_one_host(llm),
                prefers_xgrammar=sampling.prefers_xgrammar(llm),
                constraint_options=sampling.constraint_options(llm),
            ),
            compiling,
        )

    @property
    def facts(self) -> ModelFacts:
        return self._facts

    @property
    def is_dead(self) -> bool:
        return bool(self._llm.errored)

    @property
    def statistics(self) -> Statistics | None:
        return self._statistics

    async def report_scheduler(self) -> None:
        """This client of a shared engine reports how the scheduler is: let the engine core tell it."""
        await report_scheduler(self._llm)

    def release(self) -> None:
        self._llm = None

    async def check_health(self) -> None:
        try:
            await self._llm.check_health()
        except Exception as error:  # whatever it is, the engine is not well
            raise self.explain(error) or UnavailableError("the vLLM engine is not healthy") from error

    async def step(self) -> None:
        await self._llm.is_sleeping()  # it is asked between two steps

    def end(self) -> None:
        self._llm.engine_core.shutdown()

    def run(self, prompt: Mapping[str, Any], params: Any, options: RunOptions) -> AsyncGenerator[Any, None]:
        return requests.run(self._llm, prompt, params, options)

    def has_failed(self, output: Any) -> bool:
        return requests.has_failed(output)

    def explain(self, error: BaseException) -> BackendError | None:
        explained = engine_errors.explain(error)
        if isinstance(explained, EngineDiedError):  # what becomes of the engine is not this request's concern
            return EngineDiedError("the vLLM engine has died while it had this request")
        return explained

    async def render_text(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        return await prompts.rendering(self._llm).text(prompt)

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None,
        template_kwargs: Mapping[str, Any],
        processor_kwargs: Mapping[str, Any],
        cache_salt: str | None = None,
    ) -> Mapping[str, Any]:
        return await prompts.rendering(self._llm).chat(
            messages,
            template=template,
            template_kwargs=template_kwargs,
            processor_kwargs=processor_kwargs,
            cache_salt=cache_salt,
        )

    def placeholder(self, modality: str, number: int) -> str | None:
        return prompts.placeholder(self._llm, modality, number)

    def embeds_layout(self) -> EmbedsLayout | None:
        return media.embeds_layout(self._llm)

    def vision_rules(self) -> VisionRules | None:
        return qwen.vision_rules(self._llm)

    def embeds_tensor(self, array: npt.NDArray[Any]) -> Any:
        return media.as_tensor(array)

    def prompt_tensor(self, array: npt.NDArray[Any]) -> Any:
        return prompts.as_prompt(self._llm, array)

    def join_embeds(self, images: Sequence[Mapping[str, Any]]) -> Any:
        return media.join_embeds(images)

    def sampling_params(self, values: Mapping[str, Any], *, stream: bool) -> Any:
        return sampling.sampling_params(values, stream=stream)

    def pooling_params(self, values: Mapping[str, Any]) -> Any:
        return pooling.pooling_params(values)

    def structured_outputs(self, values: Mapping[str, Any]) -> Any:
        return sampling.structured_outputs(values)

    @property
    def structured_output_options(self) -> Sequence[str]:
        return sampling.structured_output_options()

    def constraint_checker(self, seconds: float, log_error: Callable[[str], None]) -> ConstraintChecker:
        return constraints.start_checker(self._llm, seconds, log_error, self._compiling)

    def guard_constraints(self, accept: Accept) -> None:
        constraints.guard_generate(self._llm, accept)

    def guard_prompts(self, check: CheckPrompt) -> None:
        requests.guard_prompts(self._llm, check)

    def observe_requests(self) -> None:
        requests.observe_requests(self._llm)

    async def load_adapter(self, adapter: Adapter) -> None:
        await self._llm.add_lora(requests.lora_request(adapter))

    async def remove_adapter(self, number: int) -> None:
        await self._llm.remove_lora(number)

    def pair_scoring(self, template: str | None) -> PairScoring:
        return pooling.VllmPairScoring.of(self._llm, self._facts.tasks, template)

    def answer_parsers(self, arguments: Mapping[str, Any]) -> AnswerParsers:
        return answers.VllmAnswerParsers(self._llm, arguments) if parses_in_pieces() else NoAnswerParsers()

    async def openai_application(
        self,
        served_names: Sequence[str],
        arguments: Mapping[str, Any],
        adapters: AdaptersInUse,
        storage: Storage = NO_STORAGE,
    ) -> Application:
        if self._facts.generates:
            requests.note_figures(self._llm)
        return await openai.build_openai_application(self._llm, served_names, arguments, adapters, storage)
