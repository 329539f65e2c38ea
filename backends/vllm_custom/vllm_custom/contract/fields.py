"""Every field of vLLM's SamplingParams and PoolingParams that a request may name, and who decides about it.

A field that is not listed is one of a newer vLLM, and the operator's until TRUSTED_PARAMETERS names it.
"""

from __future__ import annotations

from vllm_custom.contract.specs import FieldSpec, Trust

_OPENED_BY = ("TRUSTED_PARAMETERS",)

_FREE_FIELDS = (
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "ignore_eos",
    "min_tokens",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "flat_logprobs",
    "stream_interval",
    "thinking_token_budget",
    # Of pooling models.
    "task",
    "dimensions",
    "use_activation",
    "normalize",
    "step_tag_id",
    "truncate_prompt_tokens",
    "truncation_side",
    "max_tokens_per_query",
    "max_tokens_per_doc",
    "instruction",
)


def _bounded(name: str, *by: str, reason: str) -> FieldSpec:
    return FieldSpec(name, Trust.BOUNDED, by, reason)


def _operators(name: str, reason: str) -> FieldSpec:
    return FieldSpec(name, Trust.OPERATOR, _OPENED_BY, reason)


VLLM_FIELDS: tuple[FieldSpec, ...] = (
    *(FieldSpec(name) for name in _FREE_FIELDS),
    _bounded("n", "MAX_N", reason="Each sequence is a request of the engine."),
    _bounded("best_of", "MAX_N", reason="Like n, in some OpenAI routes and older vLLM versions."),
    _bounded("max_tokens", reason="The model's context; max_new_tokens of override_generation_config in model.json."),
    _bounded(
        "stop", "MAX_STOP_STRINGS", "MAX_STOP_CHARACTERS", reason="vLLM searches for all of them after each token."
    ),
    _bounded("stop_token_ids", "MAX_TOKEN_IDS", reason="All are sent to the engine."),
    _bounded("bad_words", "MAX_BAD_WORDS", "MAX_BAD_WORD_CHARACTERS", reason="Each is tokenised twice."),
    _bounded("logit_bias", "MAX_LOGIT_BIAS", reason="All are sent to the engine and added to the logits."),
    _bounded("allowed_token_ids", "MAX_TOKEN_IDS", reason="All are sent to the engine."),
    _bounded("logprob_token_ids", "MAX_TOKEN_IDS", reason="vLLM takes at most 128."),
    _bounded("logprobs", reason="max_logprobs in model.json."),
    _bounded(
        "prompt_logprobs", "MAX_PROMPT_LOGPROBS", reason="max_logprobs in model.json; times the tokens of the prompt."
    ),
    _bounded(
        "repetition_detection",
        "MAX_REPETITION_PATTERN",
        reason="vLLM searches for patterns of every size after each token.",
    ),
    _operators("extra_args", "Reaches plugins, custom samplers and the transfer of KV caches."),
    _operators("returned_token_ids", "Columns of a step pooling model's output; one that it lacks ends the engine."),
    _operators("skip_reading_prefix_cache", "Computes a cached prompt again."),
    _operators("watermarking", "Turns the operator's watermark off."),
    _operators("trace_decode_token_ids", "For debugging: forces the tokens of the answer."),
    _operators("routed_experts_prompt_start", "For debugging: which expert data are returned."),
    FieldSpec("prompt_logprob_token_ids", Trust.REFUSED, reason="No output returns its result."),
    FieldSpec("prompt_logprob_start", Trust.REFUSED, reason="Has an effect with prompt_logprob_token_ids only."),
)
