"""vLLM's own OpenAI application on the engine that Triton runs, called in process: no port, no HTTP."""

from vllm_custom.openai.envelope import OpenAICall, looks_up, parse_openai_request, read_openai_call
from vllm_custom.openai.response import HttpReply, OpenAIResponder
from vllm_custom.openai.service import OpenAIService

__all__ = [
    "HttpReply",
    "OpenAICall",
    "OpenAIResponder",
    "OpenAIService",
    "looks_up",
    "parse_openai_request",
    "read_openai_call",
]
