"""What one of several processes that serve a model may have of it."""

from __future__ import annotations

from typing import Protocol

from vllm_custom.contract.settings import Settings
from vllm_custom.media.metrics import CacheSizeRecord, Observe, Record

# Bytes that a process holds for as long as it lives, and how many things it does at a time.
_DIVIDED = ("media_cache_bytes", "media_url_cache_bytes")
_DIVIDED_AT_LEAST_ONE = ("media_concurrency", "media_fetch_concurrency")


class Size(Protocol):
    """What each of several processes holds of something."""

    def set(self, amount: int) -> int:
        """This process holds ``amount`` now. What all hold together."""


def share_of(settings: Settings, fronts: int) -> Settings:
    """The settings for one of ``fronts`` processes, so that all together keep to those of the model."""
    divided = {name: getattr(settings, name) // fronts for name in _DIVIDED}
    rounded_up = {name: -(-getattr(settings, name) // fronts) for name in _DIVIDED_AT_LEAST_ONE}
    return settings.model_copy(update=divided | rounded_up)


def with_all_caches(cache_bytes: Size, then: Observe) -> Observe:
    """An observer that is told the size of the caches of all processes in place of this one's."""

    def observe(record: Record) -> None:
        then(CacheSizeRecord(cache_bytes.set(record.size)) if isinstance(record, CacheSizeRecord) else record)

    return observe
