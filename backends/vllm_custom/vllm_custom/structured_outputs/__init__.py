"""Structured outputs: at most one constraint per request, in any form.

``guided_*`` parameters, OpenAI's ``response_format`` and vLLM's ``structured_outputs`` all end as vLLM's
StructuredOutputsParams.
"""

from vllm_custom.structured_outputs.compiler import AcceptedConstraint, ConstraintCompiler
from vllm_custom.structured_outputs.constraint import KINDS, Constraint, read_constraint

__all__ = ["KINDS", "AcceptedConstraint", "Constraint", "ConstraintCompiler", "read_constraint"]
