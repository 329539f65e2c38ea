"""From request parameters to vLLM's SamplingParams."""

from vllm_custom.sampling.build import PromptLogprobs, SamplingBuilder, check_prompt_logprobs
from vllm_custom.sampling.fields import FieldReader

__all__ = ["FieldReader", "PromptLogprobs", "SamplingBuilder", "check_prompt_logprobs"]
