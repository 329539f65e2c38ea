"""What would end the engine, or stay behind in it, refused before it is sent, by whatever route it comes.

vLLM's second model runner (the default on GPUs in 0.32) keeps the parameters of each request in arrays of fixed sizes.
What does not fit raises in the engine's own loop, which ends it for all. What cannot be written for the engine
raises after vLLM has noted the request, and stays there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vllm_custom.engine.vllm.older import find
from vllm_custom.errors import RefusedInVllmError

_LEAST, _MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class RunnerLimits:
    """How much of one request the arrays of the second model runner hold."""

    allowed_token_ids: int
    logit_bias: int
    stop_token_ids: int
    bad_word_tokens: int

    @classmethod
    def of(cls, llm: Any) -> RunnerLimits | None:
        """None where the engine has the first model runner, which keeps lists."""
        if not getattr(llm.vllm_config, "use_v2_model_runner", False):
            return None
        return cls(
            _constant("MAX_NUM_ALLOWED_TOKEN_IDS", 1024),
            _constant("MAX_NUM_LOGIT_BIAS_TOKENS", 1024),
            _constant("MAX_NUM_STOP_TOKEN_IDS", 128),
            _constant("VLLM_MAX_BAD_WORDS_TOTAL_TOKENS", 1024),
        )

    def excess(self, sampling: Any) -> tuple[str, str, int] | None:
        """The first parameter of a SamplingParams that does not fit: its name, what fits, and what there is."""
        for name, most, unit, number in self._counts(sampling):
            if number > most:
                return name, f"at most {most} {unit} (vLLM's model runner holds no more)", number
        return None

    def _counts(self, sampling: Any) -> Iterator[tuple[str, int, str, int]]:
        yield "allowed_token_ids", self.allowed_token_ids, "token ids", len(sampling.allowed_token_ids or ())
        yield "logit_bias", self.logit_bias, "entries", len(sampling.logit_bias or ())
        if sampling.min_tokens:  # only then they are masked; the model's own are among them
            stops = len(sampling.all_stop_token_ids)
            yield "stop_token_ids", self.stop_token_ids, "token ids with min_tokens, the model's own included", stops
        words = sampling.bad_words_token_ids or ()
        yield "bad_words", self.bad_word_tokens, "tokens of all words together", sum(map(len, words))


def _constant(name: str, otherwise: int) -> int:
    """vLLM's own; ``otherwise`` where this version has it under another name."""
    try:
        return int(find(name, "vllm.v1.worker.gpu.sample.logit_bias", "vllm.envs"))
    except ImportError:
        return otherwise


def guard_engine(llm: Any) -> None:
    """Have ``llm``, an AsyncLLM, refuse what would end its engine. Older versions have no such model runner."""
    processor = getattr(llm, "input_processor", None)
    if processor is None:
        return
    limits, context = RunnerLimits.of(llm), int(llm.model_config.max_model_len)
    process: Any = processor.process_inputs
    process_in_thread: Any = getattr(processor, "process_inputs_async", None)

    @functools.wraps(process)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return _within(process(*args, **kwargs), limits, context)

    async def checked_in_thread(*args: Any, **kwargs: Any) -> Any:
        return _within(await process_in_thread(*args, **kwargs), limits, context)

    processor.process_inputs = checked
    if process_in_thread is not None:
        processor.process_inputs_async = checked_in_thread


def _within(request: Any, limits: RunnerLimits | None, context: int) -> Any:
    """``request``, an EngineCoreRequest, with no more tokens to generate than the context has.

    Raises:
        Exception: vLLM's for a client's fault; it would end the engine, or cannot be sent to it.
    """
    _check_number("priority", getattr(request, "priority", None))
    sampling = getattr(request, "sampling_params", None)
    if sampling is None:
        return request
    for name in sampling.__struct_fields__:
        _check_number(name, getattr(sampling, name))
    if limits is not None and (excess := limits.excess(sampling)) is not None:
        name, expected, got = excess
        raise _refusal(name, f"expected {expected}, got {got}")
    # The length of a sequence is counted with 32 bits; it ends with the context in any case.
    if sampling.max_tokens is not None:
        sampling.max_tokens = min(sampling.max_tokens, context)
    sampling.min_tokens = min(sampling.min_tokens, context)
    return request


def _check_number(name: str, value: Any) -> None:
    if type(value) is int and not _LEAST <= value <= _MOST:
        raise _refusal(name, "expected a 64-bit integer, got a larger one")


def _refusal(name: str, problem: str) -> Exception:
    try:
        made: Exception = find("VLLMValidationError", "vllm.exceptions")(f"{name}: {problem}", parameter=name)
    except ImportError:  # older versions take a ValueError for a client's fault
        made = RefusedInVllmError(f"{name}: {problem}")
    return made
