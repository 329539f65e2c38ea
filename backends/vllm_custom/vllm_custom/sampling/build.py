"""Build vLLM's SamplingParams from what a client sent.

Types come from the installed vLLM's own field annotations, so every field of every version is accepted. Defaults are
those of ``vllm serve``: the model's generation_config, then 16 new tokens for a raw prompt and the rest of the context
for a templated one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from vllm_custom.engine.protocol import Engine
from vllm_custom.errors import InvalidRequestError, RefusedInVllmError
from vllm_custom.kernel.fields import FieldReader

RAW_PROMPT_MAX_TOKENS = 16
# `vllm serve` brings larger biases to this one.
_LARGEST_BIAS = 100.0


class SamplingBuilder:
    """Knows the fields of SamplingParams and the model's defaults; one per model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._fields = FieldReader(engine.facts.sampling_fields)
        self._defaults = engine.facts.default_sampling
        self._max_tokens_limit = engine.facts.max_tokens_limit

    @property
    def names(self) -> list[str]:
        """Fields that a request may set."""
        return self._fields.names

    def build(self, given: Mapping[str, Any], structured_outputs: Any, *, stream: bool, templated: bool) -> Any:
        """The SamplingParams of one request.

        Args:
            given: fields by name, as sent.
            structured_outputs: vLLM's StructuredOutputsParams, or None.
            stream: each output holds what is new, else the only output is the last one.
            templated: whether the prompt went through the chat template (decides the default of max_tokens).

        Raises:
            InvalidRequestError: a value of the wrong type or outside vLLM's limits.
        """
        values = self._fields.read(given)
        defaults = dict(self._defaults)
        if not templated:
            defaults["max_tokens"] = RAW_PROMPT_MAX_TOKENS
        else:
            defaults.setdefault("max_tokens", None)
        if structured_outputs is not None:
            values["structured_outputs"] = structured_outputs
        return self._engine.sampling_params(self._limited(defaults | values), stream=stream)

    def _limited(self, values: dict[str, Any]) -> dict[str, Any]:
        """What ``vllm serve`` cuts down instead of refusing it."""
        limits = [limit for limit in (values["max_tokens"], self._max_tokens_limit) if limit is not None]
        values["max_tokens"] = min(limits, default=None)
        if values.get("logit_bias"):
            bias = values["logit_bias"]
            values["logit_bias"] = {token: max(-_LARGEST_BIAS, min(_LARGEST_BIAS, bias[token])) for token in bias}
        return values


def check_prompt_logprobs(sampling: Any, prompt_tokens: int, limit: int, before: int = 0) -> int:
    """Refuse more log probabilities of the prompt than can be made into objects while other requests wait.

    Args:
        sampling: vLLM's SamplingParams.
        prompt_tokens: of the rendered prompt.
        limit: MAX_PROMPT_LOGPROBS.
        before: how many the other prompts of the request have.

    Returns:
        How many all prompts up to this one have.

    Raises:
        InvalidRequestError: names the parameter.
    """
    asked = sampling.prompt_logprobs
    number = 0 if asked is None else prompt_tokens * (asked + 1 if asked >= 0 else limit + 1)
    if number and before + number > limit:
        more = f" after {before} for other prompts" if before else ""
        raise InvalidRequestError(
            f"prompt_logprobs: expected at most {limit} for all tokens of all prompts together (MAX_PROMPT_LOGPROBS of "
            f"this model), got {asked} for each of {prompt_tokens}{more}"
        )
    return before + number


class PromptLogprobs:
    """The same for calls of vLLM's own code, which may have many prompts in one request."""

    _of_request: ContextVar[list[int]] = ContextVar("vllm_custom_prompt_logprobs")

    def __init__(self, limit: int) -> None:
        """``limit``: MAX_PROMPT_LOGPROBS."""
        self._limit = limit

    @classmethod
    def count_together(cls) -> None:
        """What this context and those made from it ask for counts as one request."""
        cls._of_request.set([0])

    def check(self, sampling: Any, prompt_tokens: int) -> None:
        """Raises: RefusedInVllmError: as :func:`check_prompt_logprobs`."""
        counted = self._of_request.get([0])
        try:
            counted[0] = check_prompt_logprobs(sampling, prompt_tokens, self._limit, counted[0])
        except InvalidRequestError as error:
            raise RefusedInVllmError(str(error)) from error
