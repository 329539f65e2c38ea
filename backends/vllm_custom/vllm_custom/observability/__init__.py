"""What operators see of a model at work."""

from vllm_custom.observability.log import QueuedLog

__all__ = ["QueuedLog"]
