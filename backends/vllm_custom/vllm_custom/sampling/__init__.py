"""From request parameters to vLLM's SamplingParams."""

from vllm_custom.sampling.build import PromptLogprobs, SamplingBuilder, check_prompt_logprobs
from vllm_custom.sampling.failures import engine_failure
from vllm_custom.sampling.fields import FieldReader
from vllm_custom.sampling.structured import Constraint, ConstraintCompiler, read_constraint

__all__ = [
    "Constraint",
    "ConstraintCompiler",
    "FieldReader",
    "PromptLogprobs",
    "SamplingBuilder",
    "check_prompt_logprobs",
    "engine_failure",
    "read_constraint",
]
