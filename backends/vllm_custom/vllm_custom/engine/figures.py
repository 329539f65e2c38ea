"""What one request took in the engine: times, tokens that came from a cache, accepted drafts."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figures:
    """Of one request; None for what the engine does not say.

    Attributes:
        queue_seconds: from the arrival at the scheduler to the first step with this request.
        prefill_seconds: from there to the first token.
        first_token_seconds: from the arrival at the engine to the first token.
        last_token_seconds: from the arrival at the engine to the last token.
        cached_tokens: of the prompt, found in the prefix cache.
        mean_acceptance_length: tokens per step of speculative decoding.
        draft_acceptance_rate: share of the drafted tokens that were accepted.
    """

    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    first_token_seconds: float | None = None
    last_token_seconds: float | None = None
    cached_tokens: int | None = None
    mean_acceptance_length: float | None = None
    draft_acceptance_rate: float | None = None

    def known(self) -> dict[str, float]:
        """Those that there are, by their names."""
        return {name: value for name, value in asdict(self).items() if value is not None}


# Gets the figures of requests that end in this context; None where they are not asked for.
NOTED: ContextVar[list[Figures] | None] = ContextVar("NOTED", default=None)


def figures_of(output: Any, sequences: int) -> Figures:
    """From the last of a request's outputs (vLLM's RequestOutput); ``sequences``: its n.

    Of several sequences, vLLM gives the times of one, and these say nothing of the request.
    """
    cached = getattr(output, "num_cached_tokens", None)
    if sequences != 1:
        return Figures(cached_tokens=cached)
    drafts = [getattr(completion, "spec_decode_metrics", None) for completion in output.outputs]
    accepted = drafts[0].to_dict() if drafts and drafts[0] is not None else {}
    return Figures(
        **_times(getattr(output, "metrics", None)),
        cached_tokens=cached,
        mean_acceptance_length=accepted.get("mean_acceptance_length"),
        draft_acceptance_rate=accepted.get("draft_acceptance_rate"),
    )


def _times(stats: Any) -> dict[str, float]:
    """From vLLM's RequestStateStats, of which a time that is not known is 0."""
    if stats is None:
        return {}
    queued, scheduled = stats.queued_ts, stats.scheduled_ts
    first, last, latency = stats.first_token_ts, stats.last_token_ts, stats.first_token_latency
    found: dict[str, float] = {}
    if queued and scheduled:
        found["queue_seconds"] = scheduled - queued
    if scheduled and first:
        found["prefill_seconds"] = first - scheduled
    if latency:
        found["first_token_seconds"] = latency
        if first and last:
            found["last_token_seconds"] = latency + last - first
    return found
