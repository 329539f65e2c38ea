"""Turn media elements into what vLLM takes: counted first, fetched on the event loop, decoded in threads."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from vllm_custom.config import Settings
from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.audio import decode_audio
from vllm_custom.media.cache import MediaCache
from vllm_custom.media.fetch import Fetcher, FetchLimits
from vllm_custom.media.image import decode_image
from vllm_custom.media.local import LocalFiles
from vllm_custom.media.metrics import DecodeRecord, LimitRecord, Observe, ignore
from vllm_custom.media.policy import MediaPolicy, Target
from vllm_custom.media.reference import encoded_bytes, not_allowed, scheme_of
from vllm_custom.media.sampling import FrameSampling
from vllm_custom.media.video import decode_video

_T = TypeVar("_T")
# Gives the encoded file; blocking, so it is called in the threads.
_Read = Callable[[], bytes]


@dataclass(frozen=True)
class DecodedMedia:
    """One item, ready for vLLM.

    Attributes:
        data: a PIL image (RGB), for video an array [frames, height, width, 3] with its metadata, for audio an array
            [samples] with its rate in Hz.
        uuid: names everything that decides ``data``: modality, options, and a hash of the file. Our cache and vLLM's
            know the item by it and trust it, so no client may choose it.
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
    """Gets and decodes media off the event loop; one per model."""

    def __init__(
        self,
        settings: Settings,
        limits: Mapping[str, int],
        fetcher: Fetcher | None = None,
        observe: Observe | None = None,
        audio_rate: int | None = None,
        default_frames: FrameSampling | None = None,
    ) -> None:
        """
        Args:
            settings: of the model.
            limits: modality to the number of items that one prompt may hold.
            fetcher: for tests.
            observe: told what happens to each item.
            audio_rate: samples per second that sounds are converted to; None leaves them as they are.
            default_frames: which frames of a clip are taken where a request does not say.
        """
        self._settings = settings
        self._limits = limits
        self._audio_rate = audio_rate
        self._default_frames = default_frames or FrameSampling()
        self._executor = ThreadPoolExecutor(settings.media_concurrency, thread_name_prefix="vllm_custom_media")
        self._observe = observe or ignore
        self._cache = MediaCache(settings.media_cache_bytes, self._observe)
        self._fetcher = fetcher or (_fetcher(settings, self._observe) if settings.allowed_media_domains else None)
        root = settings.allowed_local_media_path
        self._files = LocalFiles(Path(root)) if root else None

    @property
    def modalities(self) -> list[str]:
        """What this model takes beside text."""
        return list(self._limits)

    def frames(self, requested: FrameSampling) -> FrameSampling:
        """Which frames of clips are taken for a request.

        Raises:
            InvalidRequestError: more frames than VIDEO_MAX_FRAMES are asked for.
        """
        return requested.within(self._settings.video_max_frames, self._default_frames)

    async def load(self, elements: Sequence[MediaElement], frames: FrameSampling | None = None) -> list[DecodedMedia]:
        """Fetch and decode all elements of one prompt concurrently; the order is kept.

        Args:
            elements: what the client sent.
            frames: which frames of clips are taken, from :meth:`frames`; None takes the default.

        Raises:
            InvalidRequestError: too many items, a reference that is not allowed (before anything is fetched), or
                else the first element (in order) that is refused.
        """
        self.check_counts(Counter(element.modality for element in elements))
        sources = [self._locate(element) for element in elements]
        frames = frames or self.frames(FrameSampling())
        async with AsyncExitStack() as stack:
            session = None
            if self._fetcher is not None and any(isinstance(source, Target) for source in sources):
                session = await stack.enter_async_context(self._fetcher.session())
            return await _in_order(
                self._load(element, source, session, frames) for element, source in zip(elements, sources, strict=True)
            )

    def check_counts(self, counts: Mapping[str, int], *, embedded: bool = False) -> None:
        """Refuse more items than the model, limit_mm_per_prompt and MEDIA_MAX_ITEMS allow, before any work is done.

        Args:
            counts: modality to the number of its items.
            embedded: they are embeddings, which vLLM takes also where the limit is 0 (no encoder is loaded then).
        """
        for modality, count in counts.items():
            limit = self._limits.get(modality, 0)
            if limit == 0 and not embedded:
                raise InvalidRequestError(f"{modality}: this model takes no {modality} input")
            if count > limit > 0:
                message = f"{modality}: at most {limit} item(s) per prompt (limit_mm_per_prompt), got {count}"
                raise self._too_many(message)
        total, most = sum(counts.values()), self._settings.media_max_items
        if total > most:
            raise self._too_many(f"{total} media items; MEDIA_MAX_ITEMS of this model is {most}")

    def _too_many(self, message: str) -> MediaLimitError:
        self._observe(LimitRecord("items"))
        return MediaLimitError(message, "items")

    def close(self) -> None:
        """Stop the threads; items that wait are dropped."""
        if self._fetcher is not None:
            self._fetcher.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _locate(self, element: MediaElement) -> Target | _Read:
        """Where the element's file comes from. Cheap: no look-up, no base64."""
        scheme = scheme_of(element.raw)
        max_bytes = self._settings.media_max_bytes
        if scheme in ("http", "https"):
            if self._fetcher is None:
                raise not_allowed(element.field, scheme, " (ALLOWED_MEDIA_DOMAINS is empty)")
            return self._fetcher.check(_text(element.raw), element.field)
        if scheme == "file":
            if self._files is None:
                raise not_allowed(element.field, scheme, " (ALLOWED_LOCAL_MEDIA_PATH is not set)")
            return functools.partial(self._files.read, _text(element.raw), element.field, max_bytes)
        return functools.partial(encoded_bytes, element.raw, element.field, max_bytes)

    async def _load(
        self,
        element: MediaElement,
        source: Target | _Read,
        session: aiohttp.ClientSession | None,
        frames: FrameSampling,
    ) -> DecodedMedia:
        try:
            if isinstance(source, Target):
                assert self._fetcher is not None
                assert session is not None
                body = await self._fetcher.fetch(session, source, element.field)
                source = functools.partial(body.decoded, element.field, self._settings.media_max_bytes)
            encoded, uuid = await self._in_thread(_read, element, source, frames)
            data = await self._cache.get(uuid, lambda: self._in_thread(self._decode, element, encoded, frames))
        except MediaLimitError as error:
            self._observe(LimitRecord(error.rule))
            raise
        return DecodedMedia(data, uuid)

    def _in_thread(self, function: Callable[..., _T], *arguments: Any) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def _decode(self, element: MediaElement, encoded: bytes, frames: FrameSampling) -> Any:
        settings, field = self._settings, element.field
        began = time.perf_counter()
        try:
            if element.modality == "image":
                return decode_image(encoded, field, settings.image_max_pixels)
            if element.modality == "audio":
                return decode_audio(encoded, field, settings.audio_max_seconds, self._audio_rate)
            return decode_video(encoded, field, settings.image_max_pixels, settings.video_max_pixels, frames)
        finally:
            self._observe(DecodeRecord(element.modality, time.perf_counter() - began))


def _read(element: MediaElement, read: _Read, frames: FrameSampling) -> tuple[bytes, str]:
    encoded = read()
    # Modality and options are in front of the hash and not in it: no file can be made to have another item's name.
    options = f"-{frames.num_frames}-{frames.fps}" if element.modality == "video" else ""
    return encoded, f"{element.modality}{options}-{hashlib.sha256(encoded).hexdigest()}"


async def _in_order(jobs: Iterable[Coroutine[Any, Any, DecodedMedia]]) -> list[DecodedMedia]:
    """All results; or the error of the first job (in order, not in time) that fails, the others cancelled."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # the sessions that they use are closed next


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")  # what is not UTF-8 is refused as malformed


def _fetcher(settings: Settings, observe: Observe) -> Fetcher:
    return Fetcher(
        MediaPolicy(settings.allowed_media_domains, settings.allowed_media_networks),
        FetchLimits(
            settings.media_max_bytes,
            settings.media_fetch_timeout_seconds,
            settings.media_fetch_concurrency,
            settings.media_url_cache_bytes,
        ),
        observe=observe,
    )
