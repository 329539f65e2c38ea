"""What is new in a response, as arrays."""

from vllm_custom.responses.delta import ResponseDelta

__all__ = ["ResponseDelta"]
