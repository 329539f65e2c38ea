"""From request parameters to vLLM's SamplingParams."""

from vllm_custom.sampling.build import SamplingBuilder

__all__ = ["SamplingBuilder"]
