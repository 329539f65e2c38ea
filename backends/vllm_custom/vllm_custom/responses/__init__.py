"""The response path: new output as arrays, and the interface that sends it."""

from vllm_custom.kernel.numbers import check_finite, needs_logprobs
from vllm_custom.responses.delta import ResponseDelta
from vllm_custom.responses.responder import Delta, Responder

__all__ = ["Delta", "Responder", "ResponseDelta", "check_finite", "needs_logprobs"]
