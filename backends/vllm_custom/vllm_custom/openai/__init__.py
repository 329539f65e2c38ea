"""vLLM's own OpenAI application on the engine that Triton runs, called in process: no port, no HTTP."""

from vllm_custom.openai.envelope import parse_openai_request
from vllm_custom.openai.response import OpenAIResponder
from vllm_custom.openai.service import OpenAIService

__all__ = ["OpenAIResponder", "OpenAIService", "parse_openai_request"]
