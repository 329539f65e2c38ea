"""From a Triton request to a typed call on the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from vllm_backend_lib.contract import ADDITIONAL_OUTPUTS, Inputs
from vllm_backend_lib.images import decode_images
from vllm_backend_lib.interfaces import Request
from vllm_backend_lib.kernel import embedding_request, errors, numbers, official_texts
from vllm_backend_lib.lora import LoraAdapters
from vllm_backend_lib.sampling import LORA_KEY, build_sampling_params, parse_parameters, take_lora_name

GENERATE_TASK = "generate"
EMBED_TASK = "embed"


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
            images = await asyncio.to_thread(decode_images, self.images)
            prompt["multi_modal_data"] = {"image": images}
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
                raise errors.UnavailableError(f"vLLM cannot take this request: {output.error}")
            yield output


def task_of(inputs: Inputs) -> str:
    """Which task of the model a request asks for."""
    return EMBED_TASK if embedding_request.NAME in inputs else GENERATE_TASK


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
        raise errors.InvalidRequestError("text_input: required; it contains the prompt")
    stream = bool(inputs.flag("stream"))
    parameters = parse_parameters(*parameters_text(request, inputs))
    lora_name = take_lora_name(parameters)
    additional_outputs = _additional_outputs(inputs)
    sums = numbers.needs_logprobs(parameters, additional_outputs)
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
    name = embedding_request.NAME
    prompt, dimensions = embedding_request.read_embedding_request(parse_parameters(inputs.text(name) or "", name))
    return EmbedCall(
        prompt=prompt,
        dimensions=dimensions,
        additional_outputs=_additional_outputs(inputs),
    )


def _prepend_prompt(exclude_input: bool | None, stream: bool) -> bool:
    if exclude_input is None:
        return not stream
    if stream and not exclude_input:
        raise errors.InvalidRequestError(official_texts.STREAM_WITH_PROMPT)
    return not exclude_input


def _additional_outputs(inputs: Inputs) -> frozenset[str]:
    return frozenset(name for name in ADDITIONAL_OUTPUTS if inputs.flag(f"return_{name}"))
