"""The only module that knows vLLM versions: what moved, and how this backend asks for it.

Written for vLLM 0.20 and later; run with 0.32.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Annotated, Any, cast

import numpy.typing as npt

from vllm_custom.embeds import GRID_INPUT, VALUES_INPUT, EmbedsLayout
from vllm_custom.errors import (
    BackendError,
    ConfigError,
    InvalidRequestError,
    UnavailableError,
    UnsupportedError,
    listing,
)

# One vector of numbers for the whole prompt, or one for each of its tokens; the first that a model has is its default.
POOLING_TASKS = ("embed", "classify", "token_embed", "token_classify")


def engine_argument_names() -> list[str]:
    """Every key that model.json may hold."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return [field.name for field in dataclasses.fields(AsyncEngineArgs)]


def prepare_reasoning(arguments: dict[str, Any]) -> None:
    """Make ``structured_outputs_config`` of model.json vLLM's own object where a parser for reasoning is given too.

    vLLM 0.32 writes the parser's name into it before it turns JSON objects into its own.

    Raises:
        ConfigError: vLLM refuses its content.
    """
    given = arguments.get("structured_outputs_config")
    if not arguments.get("reasoning_parser") or not isinstance(given, dict):
        return
    from vllm.config import StructuredOutputsConfig

    try:
        arguments["structured_outputs_config"] = StructuredOutputsConfig(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.json: structured_outputs_config: {error}") from error


def random_request_id() -> str:
    """A request id that no other request of the engine has."""
    from vllm.utils import random_uuid

    return cast(str, random_uuid())


async def render_text(engine: Any, prompt: Mapping[str, Any], *, templated: bool) -> Mapping[str, Any]:
    """Tokenise a prompt dictionary and process its media off the event loop.

    Args:
        engine: the AsyncLLM.
        prompt: ``prompt`` with optional ``multi_modal_data``, ``multi_modal_uuids`` and ``mm_processor_kwargs``.
        templated: the prompt already holds the special tokens of a chat template.

    Returns:
        The engine's input, with ``prompt_token_ids``.
    """
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    renderer = engine.renderer
    tokenise = renderer.default_chat_tok_params if templated else renderer.default_cmpl_tok_params
    (rendered,) = await renderer.render_cmpl_async([parse_model_prompt(engine.model_config, dict(prompt))], tokenise)
    return cast(Mapping[str, Any], rendered)


async def render_chat(
    engine: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None,
    template_kwargs: Mapping[str, Any],
    processor_kwargs: Mapping[str, Any],
    keep_text: bool,
) -> Mapping[str, Any]:
    """Put messages whose media are decoded (parts ``image_pil``, ``video_url`` with a handle) through the template.

    Returns:
        The engine's input, with ``prompt_token_ids``, and the text as ``prompt`` where ``keep_text`` asks for it.
    """
    from vllm.renderers.params import ChatParams

    params = ChatParams(
        chat_template=template,
        # The template gives tokens or text; vLLM then tokenises the text by itself.
        chat_template_kwargs={**template_kwargs, "tokenize": not keep_text},
        mm_processor_kwargs=dict(processor_kwargs) or None,
    )
    extras = {"mm_processor_kwargs": dict(processor_kwargs)} if processor_kwargs else None
    _, (rendered,) = await engine.renderer.render_chat_async([list(messages)], params, prompt_extras=extras)
    return cast(Mapping[str, Any], rendered)


def run(
    engine: Any,
    prompt: Mapping[str, Any],
    params: Any,
    request_id: str,
    *,
    pooling: bool,
    lora_request: Any,
    priority: int,
    trace_headers: Mapping[str, str] | None = None,
) -> AsyncGenerator[Any, None]:
    """The engine's outputs for a rendered prompt; closing the generator aborts the request.

    They are vLLM's RequestOutputs for SamplingParams, and one PoolingRequestOutput for PoolingParams (``pooling``).
    """
    method = engine.encode if pooling else engine.generate
    return cast(
        AsyncGenerator[Any, None],
        method(
            prompt,
            params,
            request_id,
            lora_request=lora_request,
            priority=priority,
            trace_headers=trace_headers,
            **({} if pooling else _constrained_from_the_start(engine, params)),
        ),
    )


async def supported_tasks(engine: Any) -> tuple[str, ...]:
    """What the model does: ``generate``, or tasks of pooling models such as ``embed`` and ``classify``."""
    return tuple(await engine.get_supported_tasks())


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


def pair_processor(engine: Any, tasks: Sequence[str], template: str | None) -> Any:
    """What makes prompts of pairs, and scores of their outputs, for this model, as behind vLLM's own /score.

    Args:
        engine: the AsyncLLM.
        tasks: what the engine says it supports.
        template: a score template, as ``--chat-template`` of ``vllm serve``.

    Raises:
        UnsupportedError: this model scores no pairs, or this vLLM does not know how; says why.
    """
    try:
        from vllm.entrypoints.pooling.scoring.io_processor import ScoringIOProcessors
        from vllm.entrypoints.pooling.utils import enable_scoring_api
        from vllm.renderers.chat_utils import ChatTemplateConfig
        from vllm.tasks import SCORE_TYPE_MAP
    except ImportError as error:
        raise UnsupportedError("this version of vLLM scores pairs in another way (0.32 was run)") from error
    config = engine.model_config
    task = pooling_task(engine, tasks)
    if not enable_scoring_api(tuple(tasks), config):
        labels = f" with {getattr(config.hf_config, 'num_labels', 0)} labels" if task == "classify" else ""
        raise UnsupportedError(
            "needs a cross-encoder (a classifier with 1 label) or a model whose task is embed or token_embed; this one "
            f"does {task}{labels}"
        )
    kind = "jina-reranking-scoring" if config.architecture == "JinaForRanking" else SCORE_TYPE_MAP[task]
    try:
        return ScoringIOProcessors[kind](engine.vllm_config, engine.renderer, ChatTemplateConfig(template))
    except ValueError as error:
        raise UnsupportedError(f"vLLM scores no pairs with this model: {error}") from error


def pairs_are_templated(processor: Any) -> bool:
    """Whether instruction and chat_template_kwargs reach the prompts that ``processor`` makes."""
    return processor.name == "jina-reranking-scoring" or (
        processor.name == "cross-encoder" and processor.chat_template is not None
    )


def scoring_context(
    processor: Any, queries: Sequence[str], documents: Sequence[str], options: Mapping[str, Any]
) -> Any:
    """vLLM's account of a score request with ``options`` (:func:`scoring_fields` and chat_template_kwargs)."""
    from vllm.entrypoints.pooling.scoring.protocol import ScoreQueriesDocumentsRequest
    from vllm.entrypoints.pooling.typing import PoolingServeContext

    request = ScoreQueriesDocumentsRequest(queries=list(queries), documents=list(documents), **options)
    params = processor.create_pooling_params(request)
    params.verify(processor.model_config)
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


async def parts_of_pairs(processor: Any, context: Any) -> Sequence[Any]:
    """What becomes one prompt each, in order; off the event loop, since texts may be cut to a number of tokens."""
    from vllm.utils.async_utils import make_async

    # The renderer's own threads: a tokenizer serves one thread at a time.
    parts = make_async(processor.get_request_factory_online, processor.renderer._executor)
    return cast(Sequence[Any], await parts(context))


async def render_part(processor: Any, part: Any) -> tuple[Mapping[str, Any], Any]:
    """The engine's input and the PoolingParams of one part."""
    rendered = await processor.render_async(part)
    return rendered["prompts"], rendered["params"]


def pair_scores(processor: Any, context: Any, outputs: Sequence[Any]) -> list[float]:
    """One score for each document, from the PoolingRequestOutputs of all parts in their order. Blocks."""
    import torch
    from vllm.outputs import ScoringRequestOutput

    context.final_res_batch = list(outputs)
    with torch.inference_mode():
        processor.post_process_online(context)
        return [ScoringRequestOutput.from_base(output).outputs.score for output in context.final_res_batch]


def traces(engine: Any) -> bool:
    """Whether vLLM reports spans (otlp_traces_endpoint); elsewhere it would warn about trace headers."""
    return bool(getattr(engine.vllm_config.observability_config, "otlp_traces_endpoint", None))


def _constrained_from_the_start(engine: Any, sampling: Any) -> dict[str, bool]:
    """With a parser for reasoning, constraints would wait for an end of the reasoning that never comes here."""
    parser = engine.vllm_config.structured_outputs_config.reasoning_parser
    return {"reasoning_ended": True} if parser and sampling.structured_outputs is not None else {}


# Arguments of vLLM's server that decide what its OpenAI answers look like; the rest is about ports, processes, logs,
# or opens what this backend guards by itself.
OPENAI_ARGUMENTS = frozenset(
    {
        "chat_template_content_format",
        "default_chat_template_kwargs",
        "enable_force_include_usage",
        "enable_per_request_metrics",
        "enable_prompt_tokens_details",
        "exclude_tools_when_tool_choice_none",
        "fingerprint_mode",
        "fingerprint_value",
        "response_role",
        "return_tokens_as_token_ids",
        "sse_keep_alive_interval",
        "tool_strict_level",
        "trust_request_chat_template",
        "trust_request_mm_kwargs",
    }
)


def check_parsers(tool_call_parser: str, reasoning_parser: str) -> None:
    """Refuse names of parsers that this vLLM does not have.

    Raises:
        ConfigError: names the parameter, and those there are.
    """
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for parameter, name, manager in (
        ("TOOL_CALL_PARSER", tool_call_parser, ToolParserManager),
        ("REASONING_PARSER", reasoning_parser, ReasoningParserManager),
    ):
        known = manager.list_registered()
        if name and name not in known:
            raise ConfigError(f"config.pbtxt: parameter {parameter}: expected one of {listing(known)}, got {name!r}")


async def build_openai_application(engine: Any, served_names: Sequence[str], arguments: Mapping[str, Any]) -> Any:
    """vLLM's OpenAI application on ``engine``, as ``vllm serve`` builds it; to be called over ASGI.

    Args:
        engine: the AsyncLLM. Run this on its event loop.
        served_names: what requests may call the model; answers carry the first.
        arguments: of vLLM's server, by the names of its command line with underscores.
    """
    from types import SimpleNamespace

    from vllm.entrypoints.cli.serve import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the module's new place is not in all versions
        from vllm.entrypoints.openai.api_server import build_app, init_app_state

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    # The root of a model card: not the path of the weights, which is nobody's business.
    args.model, args.served_model_name = served_names[0], list(served_names)
    args.structured_outputs_config = engine.vllm_config.structured_outputs_config
    args.disable_log_stats = not engine.log_stats
    args.api_key = None
    for name, value in arguments.items():
        setattr(args, name, value)
    validate_parsed_serve_args(args)
    tasks = await engine.get_supported_tasks()
    application = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, application.state, args, tasks)
    application.state.server = SimpleNamespace(should_exit=False)  # the server it would stop when the engine has died
    return application


def has_failed(output: Any) -> bool:
    """Whether an output (for text or pooling) says that the engine failed the request and may be asked again."""
    if getattr(output, "error", None) is not None:
        return True
    completions = output.outputs if isinstance(output.outputs, list) else []
    return any(completion.finish_reason == "error" for completion in completions)


def check_structured_outputs(engine: Any, structured_outputs: Any) -> None:
    """Compile a StructuredOutputsParams with the configured backend, as ``generate`` would; it may be changed.

    Blocks. Raises whatever vLLM or the compiler raises.
    """
    from vllm.sampling_params import SamplingParams

    config = engine.vllm_config
    SamplingParams(structured_outputs=structured_outputs).verify(
        engine.model_config, config.speculative_config, config.structured_outputs_config, engine.get_tokenizer()
    )


def prefers_xgrammar(engine: Any) -> bool:
    """Whether guided decoding is compiled by xgrammar where that can do it (``auto`` begins with it)."""
    return engine.vllm_config.structured_outputs_config.backend in ("auto", "xgrammar")


def on_one_host(engine: Any) -> bool:
    """Whether all workers of the engine see the files of this machine."""
    config = engine.vllm_config.parallel_config
    return getattr(config, "nnodes", 1) == 1 and config.distributed_executor_backend != "ray"


def chat_template_of(engine: Any) -> str | None:
    """The chat template that vLLM would use for this model, or None if it has none."""
    from vllm.renderers.hf import resolve_chat_template

    return cast(
        "str | None",
        resolve_chat_template(engine.get_tokenizer(), chat_template=None, tools=None, model_config=engine.model_config),
    )


def media_limits(engine: Any) -> dict[str, int]:
    """How many items of each modality one prompt may hold: the model's own limits and limit_mm_per_prompt."""
    if not engine.model_config.is_multimodal_model:
        return {}
    return dict(engine.renderer.get_mm_processor().info.allowed_mm_limits)


def placeholder(engine: Any, modality: str, number: int) -> str | None:
    """The text that stands for the ``number``-th (from 1) item of ``modality`` in a prompt of this model.

    It is what the model's processor looks for. None where it looks for nothing, and puts the media in by itself.
    """
    dummy = engine.renderer.get_mm_processor().dummy_inputs
    before, all_of_them = (dummy.get_dummy_text({modality: count}) for count in (number - 1, number))
    text = cast(str, all_of_them).removeprefix(before)
    token_id = getattr(engine.model_config.hf_config, f"{modality}_token_id", None)
    token = engine.get_tokenizer().decode([token_id]) if isinstance(token_id, int) else None
    # Without the marks around it where there are any: a prompt that has the token alone counts as well.
    return token if token and text.count(token) == 1 else text or None


def embeds_layout(engine: Any) -> EmbedsLayout | None:
    """What this model takes as embeddings of images; None where enable_mm_embeds is off.

    Raises:
        UnsupportedError: the model needs more than embeddings and a grid.
    """
    model_config = engine.model_config
    if not model_config.is_multimodal_model or not model_config.multimodal_config.enable_mm_embeds:
        return None
    parser = engine.renderer.get_mm_processor().info.data_parser
    fields = set(getattr(parser, "embedding_fields", {}).get("image", {})) - {VALUES_INPUT}
    if fields - {GRID_INPUT}:
        raise UnsupportedError(f"{VALUES_INPUT}: this model needs {listing(fields)} with it, which is not supported")
    vision = getattr(model_config.hf_config, "vision_config", None)
    # Qwen3-VL: features of several depths side by side.
    depths = 1 + len(getattr(vision, "deepstack_visual_indexes", None) or ())
    merge = int(vision.spatial_merge_size) if fields and vision is not None else None
    return EmbedsLayout(model_config.get_inputs_embeds_size() * depths, merge)


def join_embeds(pictures: Sequence[Mapping[str, Any]]) -> Any:
    """Embedded pictures (fields by name, as tensors) in the form of vLLM's multi_modal_data."""
    import torch

    if all(set(picture) == {VALUES_INPUT} for picture in pictures):
        return [picture[VALUES_INPUT] for picture in pictures]
    return {
        VALUES_INPUT: torch.cat([picture[VALUES_INPUT] for picture in pictures]),
        GRID_INPUT: torch.stack([picture[GRID_INPUT] for picture in pictures]),
    }


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """A torch tensor on the array's memory."""
    import torch

    return torch.from_numpy(array)


def audio_rate(engine: Any) -> int | None:
    """Samples per second that the model's processor wants; None where it takes none or any."""
    if not engine.model_config.is_multimodal_model:
        return None
    resampler = getattr(engine.renderer.get_mm_processor().data_parser, "audio_resampler", None)
    rate = getattr(resampler, "target_sr", None)
    return None if rate is None else round(rate)


def frame_sampling(engine: Any) -> dict[str, Any]:
    """``num_frames`` and ``fps`` of media_io_kwargs in model.json, which requests may override."""
    config = getattr(engine.model_config, "multimodal_config", None)
    video = (getattr(config, "media_io_kwargs", None) or {}).get("video", {})
    return {name: video[name] for name in ("num_frames", "fps") if video.get(name, 0) > 0}  # -1 is no limit


def default_sampling(engine: Any) -> dict[str, Any]:
    """The sampling parameters of the model's generation_config, as ``vllm serve`` merges them."""
    return dict(engine.model_config.get_diff_sampling_param())


def max_tokens_limit(engine: Any) -> int | None:
    """The most tokens that any request may generate: a max_new_tokens that the operator set, or None.

    ``vllm serve`` takes the one of the model's own generation_config as a default only, and the one of
    ``override_generation_config`` or of a generation_config given by its folder as a limit as well.
    """
    config = engine.model_config
    if getattr(config, "generation_config", "auto") not in ("auto", "vllm"):
        return cast("int | None", default_sampling(engine).get("max_tokens"))
    return cast("int | None", (getattr(config, "override_generation_config", None) or {}).get("max_new_tokens"))


def sampling_fields() -> dict[str, Any]:
    """Name to type of every public field of SamplingParams that a request may set."""
    from typing import get_type_hints

    from vllm.sampling_params import SamplingParams

    internal = {"output_kind", "output_text_buffer_length", "skip_clone"}
    hints = get_type_hints(SamplingParams, include_extras=False)
    names = SamplingParams.__struct_fields__
    return {name: hints[name] for name in names if not name.startswith("_") and name not in internal}


def engine_error(error: BaseException) -> BackendError | None:
    """Translate an error of vLLM: the client's fault, a dead engine, or None when it is neither.

    ValueError and TypeError are what vLLM raises for bad input before 0.32; later it has VLLMClientError, and errors
    of media processing leave ``generate`` as EngineGenerateError with the reason in ``__cause__``.
    """
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    if isinstance(error, EngineDeadError):
        return UnavailableError("the vLLM engine has died; the model has to be loaded again")
    if isinstance(error, EngineGenerateError) and error.__cause__ is not None:
        return engine_error(error.__cause__)
    if isinstance(error, NotImplementedError):
        return UnsupportedError(str(error) or "vLLM does not support this request with this model")
    if isinstance(error, (ValueError, TypeError, *_client_errors())) and str(error):
        return InvalidRequestError(str(error))
    return None


@functools.cache
def _client_errors() -> tuple[type[Exception], ...]:
    import jinja2

    found: list[type[Exception]] = [jinja2.TemplateError]
    try:
        from vllm.exceptions import VLLMClientError

        found.append(VLLMClientError)
    except ImportError:  # before 0.32 they are ValueErrors
        pass
    return tuple(found)
