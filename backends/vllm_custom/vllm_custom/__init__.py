"""vllm_custom: a Triton Inference Server backend for vLLM with media, chat templates and clear errors."""

__version__ = "0.1.0"
