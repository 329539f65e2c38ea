"""Requests of vLLM's engine: how they are made, and what their outputs say."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast

from vllm_custom.engine.figures import NOTED, Figures, figures_of
from vllm_custom.engine.following import observed, staged
from vllm_custom.engine.protocol import Adapter, CheckPrompt, RunOptions
from vllm_custom.engine.vllm.older import lacks

_TOKENS = "prompt_token_ids"
# Arguments of ``generate`` that not all versions of vLLM have: which has them, and for what.
_SINCE = {
    "session_id": ("session_id", "0.32"),
    "reasoning_ended": ("a constraint, where the model has a parser for reasoning,", "0.17"),
    "reasoning_parser_kwargs": ("chat_template_kwargs, where the model has a parser for reasoning,", "0.20"),
    "data_parallel_rank": ("data_parallel_rank", "0.11"),
}


async def run(llm: Any, prompt: Mapping[str, Any], params: Any, options: RunOptions) -> AsyncGenerator[Any, None]:
    """The outputs for a rendered prompt: RequestOutputs, or one PoolingRequestOutput for PoolingParams.

    Whatever ends this early aborts the request: vLLM's own generator does not where it is cancelled while the request
    is on its way to the engine, or ended by what is no Exception.
    """
    common = {
        "lora_request": lora_request(options.adapter) if options.adapter is not None else None,
        "priority": options.priority,
        "trace_headers": options.trace_headers,
    }
    placed = {"session_id": options.session_id, "data_parallel_rank": options.data_parallel_rank}
    if _is_pooling(params):
        outputs = llm.encode(prompt, params, options.request_id, **common)
    else:
        common |= {name: value for name, value in placed.items() if value is not None}
        common |= _constrained_from_start(llm, params) if options.reasoning is None else options.reasoning
        _refuse_unknown(type(llm).generate, common)
        outputs = llm.generate(prompt, params, options.request_id, **common)
    finished = False
    try:
        async with aclosing(outputs):
            async for output in outputs:
                finished = output.finished
                if finished and _was_aborted(output):
                    raise _engine_died()
                yield output
    finally:
        if not finished and not llm.errored:
            with contextlib.suppress(Exception):  # the engine dies at this moment
                await llm.abort(options.request_id)


def guard_prompts(llm: Any, check: CheckPrompt) -> None:
    """Let ``llm.generate`` begin only after ``check`` has returned, whatever calls it."""
    generate = llm.generate

    def guarded(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        # The application of older versions of vLLM gives an EngineCoreRequest.
        whole = prompt if isinstance(prompt, Mapping) else {_TOKENS: getattr(prompt, _TOKENS, None)}
        ids = whole.get(_TOKENS)
        check(sampling_params, len(ids or ()))
        return cast(AsyncGenerator[Any, None], generate(prompt, sampling_params, *args, **kwargs))

    llm.generate = guarded


def note_figures(llm: Any) -> None:
    """Let ``llm.generate`` say what each request took, where that is asked for (NOTED)."""
    generate = llm.generate

    def noting(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        outputs = generate(prompt, sampling_params, *args, **kwargs)
        noted = NOTED.get()
        return outputs if noted is None else _noted(outputs, noted, getattr(sampling_params, "n", 1))

    llm.generate = noting


async def _noted(outputs: AsyncGenerator[Any, None], noted: list[Figures], sequences: int) -> AsyncGenerator[Any, None]:
    async with aclosing(outputs):
        async for output in outputs:
            if output.finished:
                noted.append(figures_of(output, sequences))
            yield output


def observe_requests(llm: Any) -> None:
    """Let ``llm`` note what it does for the request of a context, whether handlers or the application call it."""
    for name in ("generate", "encode"):
        setattr(llm, name, observed(getattr(llm, name), traces=traces(llm)))
    renderer = getattr(llm, "renderer", None)  # older versions render elsewhere
    for name in ("render_chat_async", "render_cmpl_async"):
        if hasattr(renderer, name):
            setattr(renderer, name, staged(getattr(renderer, name)))


def lora_request(adapter: Adapter) -> Any:
    """vLLM's LoRARequest."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter.name, adapter.number, adapter.path)


def has_failed(output: Any) -> bool:
    """Whether an output (for text or pooling) says that the engine failed the request."""
    if getattr(output, "error", None) is not None:
        return True
    completions = output.outputs if isinstance(output.outputs, list) else []
    return any(completion.finish_reason == "error" for completion in completions)


def _was_aborted(output: Any) -> bool:
    """Whether the engine has given a request up that its client still reads: it ends, as all do where one dies."""
    completions = getattr(output, "outputs", None)
    if not isinstance(completions, list):
        return False
    return any(completion.finish_reason == "abort" for completion in completions)


def _engine_died() -> Exception:
    from vllm.v1.engine.exceptions import EngineDeadError

    died: Exception = EngineDeadError()
    return died


def traces(llm: Any) -> bool:
    """Whether vLLM reports spans (otlp_traces_endpoint); elsewhere it would warn about trace headers."""
    return bool(getattr(llm.vllm_config.observability_config, "otlp_traces_endpoint", None))


def data_parallel_ranks(llm: Any) -> int:
    """Engines among which a request may choose one, as vLLM counts them."""
    config = llm.vllm_config.parallel_config
    local = getattr(config, "local_engines_only", False)
    return int(config.data_parallel_size_local if local else config.data_parallel_size)


def on_one_host(llm: Any) -> bool:
    """Whether all workers of the engine see the files of this machine."""
    config = llm.vllm_config.parallel_config
    backends = config.distributed_executor_backend, getattr(config, "data_parallel_backend", None)
    elsewhere = data_parallel_ranks(llm) > config.data_parallel_size_local
    return getattr(config, "nnodes", 1) == 1 and "ray" not in backends and not elsewhere


def _is_pooling(params: Any) -> bool:
    return isinstance(params, _pooling_params())


def _refuse_unknown(function: Any, given: dict[str, Any]) -> None:
    """Leave out what this vLLM does not know and would not change anything; raise UnsupportedError of the rest."""
    known = _parameters(function)
    for name in [name for name in _SINCE if name in given and known.isdisjoint((name, "**"))]:
        if given.pop(name):
            raise lacks(*_SINCE[name])


@functools.cache
def _parameters(function: Any) -> frozenset[str]:
    """Names; ``**`` where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset("**" if parameter.kind is parameter.VAR_KEYWORD else parameter.name for parameter in parameters)


@functools.cache
def _pooling_params() -> type:
    from vllm.pooling_params import PoolingParams

    params: type = PoolingParams
    return params


def _constrained_from_start(llm: Any, sampling: Any) -> dict[str, bool]:
    """With a parser for reasoning, constraints would wait for an end of the reasoning that never comes here."""
    config = llm.vllm_config.structured_outputs_config
    if not config.reasoning_parser or sampling.structured_outputs is None:
        return {}
    # Where the engine does not wait in any case, older versions of vLLM need not be told.
    at_once = getattr(config, "enable_in_reasoning", False)
    return {} if at_once and "reasoning_ended" not in _parameters(type(llm).generate) else {"reasoning_ended": True}
