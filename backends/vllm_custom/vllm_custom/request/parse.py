"""Check a request's tensors and parameters, and give them types. Pure: no Triton, no vLLM, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.names import (
    DOCUMENTS,
    EMBEDDING_REQUEST,
    EXCLUDE_INPUT_IN_OUTPUT,
    IMAGE_EMBEDS,
    IMAGE_GRID_THW,
    INPUT_IDS,
    MEDIA_INPUTS,
    MESSAGES,
    PROMPT_EMBEDS,
    QUERIES,
    RETURN_PREFIX,
    SAMPLING_PARAMETERS,
    STREAM,
    TEXT_INPUT,
    TOKEN_COUNTS,
    TOOL_CALLS,
)
from vllm_custom.contract.request_parameters import RequestParameters
from vllm_custom.contract.tensors import EXCLUSIONS
from vllm_custom.engine.embeds import ImageEmbeds, read_embeds
from vllm_custom.errors import InvalidRequestError, invalid, shorten
from vllm_custom.kernel import official_texts
from vllm_custom.kernel.embedding_request import read_embedding_request
from vllm_custom.kernel.tensors import decode, single
from vllm_custom.request.json_text import json_object, parse_json
from vllm_custom.request.pairs import TextPairs, read_pairs
from vllm_custom.request.parameters import parse_parameters
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.tensors import Tensors
from vllm_custom.request.text import check_messages, check_text
from vllm_custom.request.token_prompts import read_prompt_embeds, read_token_ids

# Parameters that let a text be longer than what is read of it.
_CUTTING = ("truncate_prompt_tokens", "max_tokens_per_query", "max_tokens_per_doc")


@dataclass(frozen=True)
class InferenceCall:
    """One prompt to generate for, or what a pooling model reads in its place.

    Attributes:
        text: the prompt, or None where messages are given.
        messages: OpenAI chat messages as parsed JSON, not yet validated in depth.
        media: modality to the elements as the client sent them (bytes of base64, of a URI, or of the file itself).
        exclude_input: the client's choice, or None for the default.
        additional_outputs: names of the optional outputs that the client asked for.
        sampling: request parameters that are fields of vLLM's SamplingParams, PoolingParams or score request, as sent.
        control: the other request parameters.
        token_ids: the prompt in place of text and messages.
        prompt_embeds: embeddings of its tokens in place of text and messages.
        embedding_request: whether it came in the input of that name.
        embeds: embeddings of images, in place of images.
        pairs: texts to score, in place of a prompt.
    """

    text: str | None
    messages: list[dict[str, Any]] | None
    stream: bool
    exclude_input: bool | None
    additional_outputs: frozenset[str]
    sampling: Mapping[str, Any]
    control: RequestParameters
    media: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    token_ids: Sequence[int] | None = None
    prompt_embeds: npt.NDArray[Any] | None = None
    embedding_request: bool = False
    embeds: ImageEmbeds | None = None
    pairs: TextPairs | None = None

    @property
    def is_tokenized(self) -> bool:
        """Whether the prompt came as token ids or embeddings, which nothing is added to."""
        return self.token_ids is not None or self.prompt_embeds is not None

    @property
    def templated(self) -> bool | None:
        """True and False where the request decides it, None where it depends on placeholders in the text."""
        return True if self.messages is not None else self.control.apply_chat_template


def split_batch(tensors: Tensors) -> list[Tensors]:
    """The rows of a batched request (max_batch_size > 0): each tensor loses its first dimension.

    Raises:
        InvalidRequestError: the tensors do not agree on the number of rows, or have none; or one of BYTES has no
            shape but that of the batch, as Triton 24.10 gives it where a client's shape has 2^40 rows.
    """
    for name, array in tensors.items():
        if array.ndim < 2 and array.dtype == np.object_:
            raise InvalidRequestError(f"{name}: expected a batch size and a shape, got the shape {list(array.shape)}")
    sizes = {name: array.shape[0] for name, array in tensors.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidRequestError(f"the inputs have different batch sizes: {sizes}")
    rows = next(iter(sizes.values()), 1)
    if rows == 0:
        raise InvalidRequestError("the inputs have a batch size of 0; expected at least one row")
    return [{name: array[row] for name, array in tensors.items()} for row in range(rows)]


def parse_request(
    tensors: Tensors,
    parameters: str,
    sampling_names: Sequence[str],
    typed: Mapping[str, Any] | None = None,
    rules: ClientRules | None = None,
) -> InferenceCall:
    """Parse one row of tensors and the request's parameters.

    Args:
        tensors: contract inputs by name, without a batch dimension.
        parameters: the request's parameters as JSON text (``request.parameters()``).
        sampling_names: fields of the installed vLLM's SamplingParams, PoolingParams and score request.
        typed: parameters that came as tensors of their own (:class:`.ParameterTensors`).
        rules: what a client may set, and how much of it; None for the defaults.

    Raises:
        InvalidRequestError: names the input or parameter, its value, and what is accepted.
    """
    rules = rules or ClientRules()
    text = text_of(tensors, TEXT_INPUT)
    messages = _messages(tensors, rules)
    pairs = read_pairs(tensors, rules)
    token_ids, prompt_embeds = read_token_ids(tensors, rules), read_prompt_embeds(tensors, rules)
    if sum(given is not None for given in (text, messages, pairs, token_ids, prompt_embeds)) != 1:
        raise InvalidRequestError(
            f"exactly one of the inputs {TEXT_INPUT}, {MESSAGES}, {INPUT_IDS}, {PROMPT_EMBEDS}, and {QUERIES} with "
            f"{DOCUMENTS} is required"
        )
    own = raw_element(tensors, SAMPLING_PARAMETERS) if SAMPLING_PARAMETERS in tensors else None
    sampling, control = parse_parameters(parameters, own, sampling_names, typed, rules)
    call = InferenceCall(
        text=text,
        messages=messages,
        media={n: _elements(tensors, n, rules) for n in MEDIA_INPUTS if n in tensors and tensors[n].size},
        stream=bool(_flag(tensors, STREAM)),
        exclude_input=_flag(tensors, EXCLUDE_INPUT_IN_OUTPUT),
        additional_outputs=_additional_outputs(tensors) | ({TOOL_CALLS} if control.tools else set()),
        sampling=sampling,
        control=control,
        token_ids=token_ids,
        prompt_embeds=prompt_embeds,
        embeds=read_embeds(tensors.get(IMAGE_EMBEDS), tensors.get(IMAGE_GRID_THW)),
        pairs=pairs,
    )
    _check_combinations(call, [name for name, array in tensors.items() if array.size])
    _check_lengths(call, rules)
    return call


def _check_lengths(call: InferenceCall, rules: ClientRules) -> None:
    """Text that no context can hold is refused before a template or a tokenizer sees it."""
    if call.text is not None:
        check_text(TEXT_INPUT, len(call.text), rules)
    if call.messages is not None:
        check_messages(call.messages, rules)
    if call.pairs is not None:
        cut = any(name in call.sampling for name in _CUTTING)
        for name, texts in ((QUERIES, call.pairs.queries), (DOCUMENTS, call.pairs.documents)):
            for index, text in enumerate(texts):
                check_text(f"{name}[{index}]", len(text), rules, cut=cut)


def parse_embedding_request(tensors: Tensors, rules: ClientRules | None = None) -> InferenceCall:
    """Parse the official input ``embedding_request``: JSON with ``input`` and ``pooling_params``.

    Raises:
        InvalidRequestError: names the key, its value, and what is accepted.
    """
    rules = rules or ClientRules()
    name = EMBEDDING_REQUEST
    body = json_object(raw_element(tensors, name), name, rules)
    prompt, dimensions = read_embedding_request(body)
    if isinstance(prompt, str):
        check_text(f"{name}.input", len(prompt), rules)
    return InferenceCall(
        text=prompt if isinstance(prompt, str) else None,
        token_ids=None if isinstance(prompt, str) else prompt,
        messages=None,
        stream=False,
        exclude_input=None,
        additional_outputs=_additional_outputs(tensors) & TOKEN_COUNTS,  # as official: the others are not read
        sampling={"task": "embed"} | ({} if dimensions is None else {"dimensions": dimensions}),
        control=RequestParameters(),
        embedding_request=True,
    )


def _additional_outputs(tensors: Tensors) -> frozenset[str]:
    return frozenset(
        name.removeprefix(RETURN_PREFIX) for name in tensors if name.startswith(RETURN_PREFIX) and _flag(tensors, name)
    )


def _check_combinations(call: InferenceCall, given: Collection[str]) -> None:
    """Reject combinations of inputs that are valid on their own."""
    for exclusion in EXCLUSIONS:
        if problem := exclusion.problem(given):
            raise InvalidRequestError(problem)
    if call.stream and call.exclude_input is False:
        raise InvalidRequestError(official_texts.STREAM_WITH_PROMPT)
    if call.messages is not None and call.control.apply_chat_template is False:
        raise InvalidRequestError("apply_chat_template: false cannot be combined with messages")
    if call.prompt_embeds is not None and call.sampling.get("prompt_logprobs") is not None:
        raise InvalidRequestError(f"prompt_logprobs: cannot be combined with {PROMPT_EMBEDS}, which have no token ids")
    if call.is_tokenized and call.control.apply_chat_template:
        raise InvalidRequestError(f"apply_chat_template: requires {TEXT_INPUT} or {MESSAGES}")


def _flag(tensors: Tensors, name: str) -> bool | None:
    return bool(single(name, tensors[name])) if name in tensors else None


def text_of(tensors: Tensors, name: str) -> str | None:
    """The one element of the tensor ``name`` as text; None where it is absent.

    Raises:
        InvalidRequestError: another number of elements, or not UTF-8.
    """
    return decode(name, single(name, tensors[name])) if name in tensors else None


def raw_element(tensors: Tensors, name: str) -> bytes | str:
    """The one element of the tensor ``name`` as it came, for a reader that checks it itself.

    Raises:
        InvalidRequestError: another number of elements.
    """
    value = single(name, tensors[name])
    return value if isinstance(value, (bytes, str)) else str(value)


def _elements(tensors: Tensors, name: str, rules: ClientRules) -> tuple[bytes, ...]:
    flat = tensors[name].reshape(-1)
    rules.check(name, flat.size, "MEDIA_MAX_ITEMS", "items")
    for value in flat:
        if not isinstance(value, (bytes, str)):
            raise invalid(name, value, "encoded media or references in a tensor of TYPE_STRING")
    return tuple(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in flat)


def _messages(tensors: Tensors, rules: ClientRules) -> list[dict[str, Any]] | None:
    if MESSAGES not in tensors:
        return None
    messages = parse_json(raw_element(tensors, MESSAGES), MESSAGES, "a JSON list of chat messages", rules)
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise InvalidRequestError(f"messages: expected a non-empty JSON list of objects, got {shorten(messages)}")
    return messages
