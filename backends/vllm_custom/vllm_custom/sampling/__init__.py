"""From request parameters to vLLM's SamplingParams."""

from vllm_custom.sampling.build import SamplingBuilder, sampling_fields
from vllm_custom.sampling.checker import start_checker
from vllm_custom.sampling.failures import engine_failure
from vllm_custom.sampling.fields import FieldReader
from vllm_custom.sampling.structured import Constraint, ConstraintCompiler, read_constraint

__all__ = [
    "Constraint",
    "ConstraintCompiler",
    "FieldReader",
    "SamplingBuilder",
    "engine_failure",
    "read_constraint",
    "sampling_fields",
    "start_checker",
]
