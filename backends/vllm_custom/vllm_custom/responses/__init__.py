"""The way out: deltas, tensors, ordered delivery, cancellation."""

from vllm_custom.responses.cancellation import CancellationWatcher
from vllm_custom.responses.delta import ResponseDelta
from vllm_custom.responses.sender import ResponseStream, SenderPool

__all__ = ["CancellationWatcher", "ResponseDelta", "ResponseStream", "SenderPool"]
