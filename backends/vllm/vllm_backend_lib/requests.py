"""From a Triton request to a typed call on the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from vllm_backend_lib.contract import ADDITIONAL_OUTPUTS, Inputs
from vllm_backend_lib.errors import InvalidRequestError, UnavailableError, invalid, shorten
from vllm_backend_lib.images import decode_images
from vllm_backend_lib.interfaces import Request
from vllm_backend_lib.lora import LoraAdapters
from vllm_backend_lib.sampling import LORA_KEY, build_sampling_params, parse_parameters, take_lora_name

GENERATE_TASK = "generate"
EMBED_TASK = "embed"
# vLLM adds up what it was asked for.
_LOGPROBS_KEYS = ("logprobs", "logprob_token_ids")


@dataclass(frozen=True)
class GenerateCall:
    """A checked request for text."""

    prompt: str
    images: list[Any]
    stream: bool
    prepend_prompt: bool
    sampling_params: Any
    lora_name: str | None
    additional_outputs: frozenset[str]
    sums_logprobs: bool = False
    """vLLM was asked for logprobs only to have `cumulative_logprob`."""

    async def outputs(self, engine: Any, loras: LoraAdapters, request_id: str) -> AsyncIterator[Any]:
        """The engine's outputs: deltas when streaming, else the final one only."""
        prompt: dict[str, Any] = {"prompt": self.prompt}
        if self.images:
            pictures = await asyncio.to_thread(decode_images, self.images)
            prompt["multi_modal_data"] = {"image": pictures}
        lora_request = await loras.request_for(engine, self.lora_name)
        stream = engine.generate(prompt, self.sampling_params, request_id, lora_request=lora_request)
        async for output in stream:
            yield output


@dataclass(frozen=True)
class EmbedCall:
    """A checked request for an embedding."""

    prompt: str | list[int]
    dimensions: int | None
    additional_outputs: frozenset[str]

    async def outputs(self, engine: Any, request_id: str) -> AsyncIterator[Any]:
        """The engine's outputs; one."""
        from vllm.pooling_params import PoolingParams

        key = "prompt" if isinstance(self.prompt, str) else "prompt_token_ids"
        params = PoolingParams(dimensions=self.dimensions, task=EMBED_TASK)
        async for output in engine.encode({key: self.prompt}, params, request_id):
            if getattr(output, "error", None):
                raise UnavailableError(f"vLLM cannot take this request: {output.error}")
            yield output


def task_of(inputs: Inputs) -> str:
    """Which task of the model a request asks for."""
    return EMBED_TASK if "embedding_request" in inputs else GENERATE_TASK


def parameters_text(request: Request, inputs: Inputs) -> tuple[str, str]:
    """The request's parameters as JSON text, and the name of where they came from; the tensor wins."""
    text = inputs.text("sampling_parameters")
    return (request.parameters(), "parameters") if text is None else (text, "sampling_parameters")


def requested_lora(request: Request, inputs: Inputs) -> str | None:
    """The adapter that a request names; cheap where it names none."""
    text, source = parameters_text(request, inputs)
    if LORA_KEY not in text and "\\u" not in text:
        return None
    return take_lora_name(parse_parameters(text, source))


def parse_generate(request: Request, inputs: Inputs) -> GenerateCall:
    """Reads and checks a request for text. Raises InvalidRequestError."""
    prompt = inputs.text("text_input")
    if prompt is None:
        raise InvalidRequestError("text_input: required; it contains the prompt")
    stream = bool(inputs.flag("stream"))
    parameters = parse_parameters(*parameters_text(request, inputs))
    lora_name = take_lora_name(parameters)
    additional_outputs = _additional_outputs(inputs)
    sums = "cumulative_logprob" in additional_outputs and not any(name in parameters for name in _LOGPROBS_KEYS)
    if sums:
        parameters["logprobs"] = 0
    return GenerateCall(
        prompt=prompt,
        images=inputs.elements("image"),
        stream=stream,
        prepend_prompt=_prepend_prompt(inputs.flag("exclude_input_in_output"), stream),
        sampling_params=build_sampling_params(parameters, stream=stream),
        lora_name=lora_name,
        additional_outputs=additional_outputs,
        sums_logprobs=sums,
    )


def parse_embed(inputs: Inputs) -> EmbedCall:
    """Reads and checks a request for an embedding. Raises InvalidRequestError."""
    field = "embedding_request"
    body = parse_parameters(inputs.text(field) or "", field)
    prompt = body.get("input")
    if prompt is None or not (isinstance(prompt, str) or _is_token_list(prompt)):
        raise invalid(f"{field}.input", shorten(prompt), "a string, or a list of token ids")
    pooling = body.get("pooling_params") or {}
    if not isinstance(pooling, dict):
        raise invalid(f"{field}.pooling_params", shorten(pooling), "an object")
    return EmbedCall(
        prompt=prompt,
        dimensions=_dimensions(f"{field}.pooling_params.dimensions", pooling.get("dimensions")),
        additional_outputs=_additional_outputs(inputs),
    )


def _prepend_prompt(exclude_input: bool | None, stream: bool) -> bool:
    if exclude_input is None:
        return not stream
    if stream and not exclude_input:
        raise invalid("exclude_input_in_output", "false", "true or no value when `stream` is true")
    return not exclude_input


def _additional_outputs(inputs: Inputs) -> frozenset[str]:
    return frozenset(name for name in ADDITIONAL_OUTPUTS if inputs.flag(f"return_{name}"))


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)


def _dimensions(field: str, value: Any) -> int | None:
    """The official request form wraps the number in a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise invalid(field, shorten(value), "a positive integer")
    return value
