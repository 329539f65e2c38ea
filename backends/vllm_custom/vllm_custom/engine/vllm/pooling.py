"""PoolingParams, and scores of pairs by what is behind vLLM's own /score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from vllm_custom.engine.protocol import POOLING_TASKS, PairScoring
from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.kernel import engine_errors


def pooling_task(engine: Any, tasks: Sequence[str]) -> str | None:
    """The task that vLLM chooses for a pooling model with ``tasks`` where a request names none."""
    choose = getattr(engine.model_config, "get_pooling_task", None)
    if choose is not None:
        return cast("str | None", choose(tuple(tasks)))
    return next((task for task in POOLING_TASKS if task in tasks), None)


def pooling_fields() -> dict[str, Any]:
    """Name to type of every public field of PoolingParams that a request may set."""
    from typing import get_type_hints

    from vllm.pooling_params import PoolingParams

    hints = get_type_hints(PoolingParams, include_extras=False)
    public = ("task", "dimensions", "use_activation", "normalize", "step_tag_id", "returned_token_ids")
    return {name: hints[name] for name in public if name in PoolingParams.__struct_fields__}


def scoring_fields() -> dict[str, Any]:
    """Name to type of every field of vLLM's score request that says how pairs are scored; none in an older vLLM."""
    try:
        from vllm.entrypoints.pooling.scoring.protocol import ScoreQueriesDocumentsRequest
    except ImportError:
        return {}
    fields = ScoreQueriesDocumentsRequest.model_fields
    public = (
        "use_activation",
        "truncate_prompt_tokens",
        "truncation_side",
        "max_tokens_per_query",
        "max_tokens_per_doc",
        "instruction",
    )
    return {name: Annotated[fields[name].annotation, fields[name]] for name in public if name in fields}


def pooling_params(values: Mapping[str, Any]) -> Any:
    """PoolingParams.

    Raises:
        BackendError: vLLM refuses a value.
    """
    from vllm.pooling_params import PoolingParams

    try:
        return PoolingParams(**values)
    except Exception as error:
        raise engine_errors.explain(error) or InvalidRequestError(
            f"pooling parameters were refused: {error}"
        ) from error


class VllmPairScoring(PairScoring):
    """What makes prompts of pairs, and scores of their outputs, as behind vLLM's own /score."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @classmethod
    def of(cls, llm: Any, tasks: Sequence[str], template: str | None) -> VllmPairScoring:
        """
        Args:
            llm: the AsyncLLM.
            tasks: what the engine says it supports.
            template: a score template, as ``--chat-template`` of ``vllm serve``.

        Raises:
            UnsupportedError: this model scores no pairs, or this vLLM does not know how; says why.
        """
        return cls(_pair_processor(llm, tasks, template))

    @property
    def templated(self) -> bool:
        name = self._processor.name
        return name == "jina-reranking-scoring" or (
            name == "cross-encoder" and self._processor.chat_template is not None
        )

    def begin(self, queries: Sequence[str], documents: Sequence[str], options: Mapping[str, Any]) -> Any:
        from vllm.entrypoints.pooling.scoring.protocol import ScoreQueriesDocumentsRequest
        from vllm.entrypoints.pooling.typing import PoolingServeContext

        request = ScoreQueriesDocumentsRequest(queries=list(queries), documents=list(documents), **options)
        params = self._processor.create_pooling_params(request)
        params.verify(self._processor.model_config)
        kwargs = request.chat_template_kwargs
        return PoolingServeContext(
            request=request,
            model_name="",
            request_id="",
            pooling_params=params,
            lora_request=None,
            priorities=None,
            prompt_extras={"chat_template_kwargs": kwargs} if kwargs else None,
        )

    async def parts(self, account: Any) -> Sequence[Any]:
        from vllm.utils.async_utils import make_async

        # Off the event loop, since texts may be cut to a number of tokens; in the renderer's own threads, since a
        # tokenizer serves one thread at a time.
        make = make_async(self._processor.get_request_factory_online, self._processor.renderer._executor)
        return cast(Sequence[Any], await make(account))

    async def render(self, part: Any) -> tuple[Mapping[str, Any], Any]:
        rendered = await self._processor.render_async(part)
        return rendered["prompts"], rendered["params"]

    def scores(self, account: Any, outputs: Sequence[Any]) -> list[float]:
        import torch
        from vllm.outputs import ScoringRequestOutput

        account.final_res_batch = list(outputs)
        with torch.inference_mode():
            self._processor.post_process_online(account)
            return [ScoringRequestOutput.from_base(output).outputs.score for output in account.final_res_batch]


def _pair_processor(engine: Any, tasks: Sequence[str], template: str | None) -> Any:
    try:
        from vllm.entrypoints.pooling.scoring.io_processor import ScoringIOProcessors
        from vllm.entrypoints.pooling.utils import enable_scoring_api
        from vllm.renderers.chat_utils import ChatTemplateConfig
        from vllm.tasks import SCORE_TYPE_MAP
    except ImportError as error:
        raise UnsupportedError("this vLLM scores pairs through another interface (tested with 0.32)") from error
    config = engine.model_config
    task = pooling_task(engine, tasks)
    if not enable_scoring_api(tuple(tasks), config):
        labels = f" with {getattr(config.hf_config, 'num_labels', 0)} labels" if task == "classify" else ""
        raise UnsupportedError(
            "requires a cross-encoder (a classifier with 1 label) or a model whose task is embed or token_embed; the "
            f"task of this model is {task}{labels}"
        )
    kind = "jina-reranking-scoring" if config.architecture == "JinaForRanking" else SCORE_TYPE_MAP[task]
    try:
        return ScoringIOProcessors[kind](engine.vllm_config, engine.renderer, ChatTemplateConfig(template))
    except ValueError as error:
        raise UnsupportedError(f"vLLM does not score pairs with this model: {error}") from error
