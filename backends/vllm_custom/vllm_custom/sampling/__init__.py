"""From request parameters to vLLM's SamplingParams."""

from vllm_custom.sampling.build import PromptLogprobs, SamplingBuilder, check_prompt_logprobs

__all__ = ["PromptLogprobs", "SamplingBuilder", "check_prompt_logprobs"]
