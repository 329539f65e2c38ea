"""The way out: deltas, tensors, ordered delivery, cancellation."""

from vllm_custom.responses.cancellation import CancellationWatcher
from vllm_custom.responses.delta import ResponseDelta
from vllm_custom.responses.numbers import check_finite, needs_logprobs
from vllm_custom.responses.sender import ResponseStream, SenderPool

__all__ = ["CancellationWatcher", "ResponseDelta", "ResponseStream", "SenderPool", "check_finite", "needs_logprobs"]
