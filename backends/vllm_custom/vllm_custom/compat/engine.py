"""What the engine takes and gives beside prompts: arguments, requests, tasks, errors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

from vllm_custom.errors import (
    BackendError,
    InvalidRequestError,
    UnavailableError,
    UnsupportedError,
    told,
)


def engine_argument_names() -> list[str]:
    """Every key that model.json may hold."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return [field.name for field in dataclasses.fields(AsyncEngineArgs)]


def random_request_id() -> str:
    """A request id that no other request of the engine has."""
    from vllm.utils import random_uuid

    return cast(str, random_uuid())


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


def traces(engine: Any) -> bool:
    """Whether vLLM reports spans (otlp_traces_endpoint); elsewhere it would warn about trace headers."""
    return bool(getattr(engine.vllm_config.observability_config, "otlp_traces_endpoint", None))


def _constrained_from_the_start(engine: Any, sampling: Any) -> dict[str, bool]:
    """With a parser for reasoning, constraints would wait for an end of the reasoning that never comes here."""
    parser = engine.vllm_config.structured_outputs_config.reasoning_parser
    return {"reasoning_ended": True} if parser and sampling.structured_outputs is not None else {}


def has_failed(output: Any) -> bool:
    """Whether an output (for text or pooling) says that the engine failed the request and may be asked again."""
    if getattr(output, "error", None) is not None:
        return True
    completions = output.outputs if isinstance(output.outputs, list) else []
    return any(completion.finish_reason == "error" for completion in completions)


def on_one_host(engine: Any) -> bool:
    """Whether all workers of the engine see the files of this machine."""
    config = engine.vllm_config.parallel_config
    return getattr(config, "nnodes", 1) == 1 and config.distributed_executor_backend != "ray"


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
        return UnsupportedError(told(error) or "vLLM does not support this request with this model")
    if isinstance(error, (ValueError, TypeError, *_client_errors())) and str(error):
        return InvalidRequestError(told(error))
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
