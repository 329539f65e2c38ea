"""What operators see of a model at work."""

from vllm_custom.observability.log import Log, QueuedLog

__all__ = ["Log", "QueuedLog"]
