"""Turn media elements into what vLLM takes, in threads, with the number of items checked first."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vllm_custom.config import Settings
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.image import decode_image
from vllm_custom.media.reference import encoded_bytes
from vllm_custom.media.video import decode_video


@dataclass(frozen=True)
class DecodedMedia:
    """One item, ready for vLLM.

    Attributes:
        data: a PIL image (RGB), or for video an array [frames, height, width, 3] with its metadata.
        uuid: a hash of everything that decides ``data``; vLLM's caches trust it, so no client may choose it.
    """

    data: Any
    uuid: str


@dataclass(frozen=True)
class MediaElement:
    """One item as the client sent it; ``field`` names it in messages to the client."""

    modality: str
    field: str
    raw: bytes


class MediaLoader:
    """Decodes media off the event loop; one per model."""

    def __init__(self, settings: Settings, limits: Mapping[str, int]) -> None:
        """``limits`` is modality to the number of items that one prompt may hold."""
        self._settings = settings
        self._limits = limits
        self._executor = ThreadPoolExecutor(settings.media_concurrency, thread_name_prefix="vllm_custom_media")

    @property
    def modalities(self) -> list[str]:
        """What this model takes beside text."""
        return list(self._limits)

    async def load(self, elements: Sequence[MediaElement]) -> list[DecodedMedia]:
        """Decode all elements of one prompt concurrently; the order is kept.

        Raises:
            InvalidRequestError: too many items, or the first element (in order) that is refused.
        """
        self.check_counts(elements)
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._executor, self._decode, element) for element in elements]
        try:
            return [await job for job in jobs]  # not gather, which raises the first refusal in time
        finally:
            for job in jobs:
                if not job.cancel() and not job.cancelled():
                    job.exception()  # asked for, or asyncio logs those that nobody awaited

    def check_counts(self, elements: Sequence[MediaElement]) -> None:
        """Refuse more items than limit_mm_per_prompt and the model allow, before any work is done on them."""
        for modality in dict.fromkeys(element.modality for element in elements):
            count = sum(element.modality == modality for element in elements)
            limit = self._limits.get(modality, 0)
            if limit == 0:
                raise InvalidRequestError(f"{modality}: this model takes no {modality} input")
            if count > limit:
                raise InvalidRequestError(
                    f"{modality}: at most {limit} item(s) per prompt (limit_mm_per_prompt), got {count}"
                )

    def close(self) -> None:
        """Stop the threads; items that wait are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _decode(self, element: MediaElement) -> DecodedMedia:
        settings = self._settings
        encoded = encoded_bytes(element.raw, element.field, settings.media_max_bytes)
        digest = hashlib.sha256(encoded)
        if element.modality == "image":
            return DecodedMedia(decode_image(encoded, element.field, settings.image_max_pixels), digest.hexdigest())
        digest.update(f"frames={settings.video_max_frames}".encode())
        video = decode_video(encoded, element.field, settings.image_max_pixels, settings.video_max_frames)
        return DecodedMedia(video, digest.hexdigest())
