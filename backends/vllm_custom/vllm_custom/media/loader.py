"""Turn media elements into what vLLM takes: counted and judged first, read, measured, and decoded in workers."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import aiohttp

from vllm_custom.contract.settings import Settings
from vllm_custom.engine.vision import VisionOptions, VisionRules
from vllm_custom.errors import ConfigError, InvalidRequestError, MediaLimitError, UnavailableError
from vllm_custom.media.budget import FileBytes, SharedBytes, budget_of, check_budgets
from vllm_custom.media.cache import MediaCache
from vllm_custom.media.decoders.frame_list import pack_frames
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoders.job import Colour, Job
from vllm_custom.media.decoding import Decoder
from vllm_custom.media.elements import DecodedMedia, LoadedMedia, MediaElement, nothing
from vllm_custom.media.metrics import LimitRecord, Observe, ignore
from vllm_custom.media.sizing import Sizing
from vllm_custom.media.sources.fetch import Fetcher
from vllm_custom.media.sources.reading import Source, Sources
from vllm_custom.media.vision_options import name_of, with_sampling
from vllm_custom.media.workers import DecoderPool, ForkServer
from vllm_custom.observability import stage

_T = TypeVar("_T")
_THREADS = 4  # for base64, hashes and copies


@dataclass(frozen=True)
class _Item:
    """An element whose file is here: its name in the caches, and its data where the cache has them.

    ``metadata`` are those of a video whose frames have been chosen.
    """

    job: Job
    encoded: bytes | bytearray
    uuid: str
    data: Any = None
    metadata: Mapping[str, Any] | None = None


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
        shared: SharedBytes | None = None,
        vision: VisionRules | None = None,
        background: Colour | None = None,
    ) -> None:
        """
        Args:
            settings: of the model.
            limits: modality to the number of items that one prompt may hold.
            fetcher: for tests.
            observe: told what happens to each item.
            audio_rate: samples per second that audio is converted to; None leaves it as it is.
            default_frames: which frames of a video are taken where a request does not say.
            shared: what all processes count that serve the model; None where this is the only one.
            vision: the model's own rules for sizes and frames.
            background: what shows where an image is transparent; None for white.

        Raises:
            ConfigError: a request may need more bytes than there are for all requests, or QWEN_VL_UTILS is set for a
                model without such rules.
        """
        check_budgets(settings)
        self._settings = settings
        self._sizing = Sizing(settings, vision)
        self._limits = limits
        self._default_frames = default_frames or FrameSampling()
        self._observe = observe or ignore
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="vllm_custom_media")
        self._sources = Sources(settings, self._executor, self._observe, fetcher)
        self._cache = MediaCache(settings.media_cache_bytes, self._observe)
        self._budget = budget_of(settings.media_inflight_bytes, shared.decoded_bytes if shared else None)
        self._file_budget = budget_of(settings.media_inflight_bytes, shared.file_bytes if shared else None)
        self._pool = DecoderPool(
            ForkServer(settings.media_worker_bytes),
            self._executor,
            settings.media_concurrency,
            settings.media_decode_seconds,
            settings.media_worker_bytes,
            self._observe,
        )
        self._decoder = Decoder(settings, audio_rate, background, self._pool)

    def start(self) -> str:
        """Start the first process that decodes media, if this model takes any, so that what is wrong is seen at load.

        Returns:
            A line for the log, which says what the processes are confined by; empty where there are none.

        Raises:
            ConfigError: no process can be started.
        """
        if not self._limits:
            return ""
        try:
            return f"media are decoded in separate processes, confined by {self._pool.start()}"
        except UnavailableError as error:
            raise ConfigError(str(error)) from error

    @property
    def modalities(self) -> list[str]:
        """What this model takes in addition to text."""
        return list(self._limits)

    def frames(self, requested: FrameSampling) -> FrameSampling:
        """Which frames of videos are taken for a request.

        Raises:
            InvalidRequestError: more frames than VIDEO_MAX_FRAMES are asked for.
        """
        return requested.within(self._settings.video_max_frames, self._default_frames)

    def processor_kwargs(self, elements: Sequence[MediaElement]) -> Mapping[str, Any]:
        """What the model's media processor is told about a prompt with these elements."""
        return self._sizing.processor_kwargs(elements)

    async def load(self, elements: Sequence[MediaElement], frames: FrameSampling | None = None) -> LoadedMedia:
        """Fetch and decode all elements of one prompt concurrently; the order is kept.

        The request waits until its files fit into the budget. Before anything is decoded, the headers of all say how
        many bytes they will be together; the request waits until it can have all of them, and holds them until the
        result is released.

        Args:
            elements: what the client sent.
            frames: which frames of videos are taken, from :meth:`frames`; None takes the default.

        Raises:
            InvalidRequestError: too many items, a reference that is not allowed (before anything is fetched), too
                many bytes (before anything is decoded), or else the first element (in order) that is refused.
            UnavailableError: there are no processes that decode media.
        """
        if not elements:
            return LoadedMedia([], nothing)
        self.check_counts(Counter(element.modality for element in elements))
        options = self._sizing.options(elements)
        sources = [[self._sources.locate(raw, name) for name, raw in element.files] for element in elements]
        frames = frames or self.frames(FrameSampling())
        every_source = [source for of_element in sources for source in of_element]
        most = sum(map(self._sources.at_most, every_source))
        async with FileBytes(self._file_budget, most, self._settings.media_request_bytes) as files:
            async with self._sources.session(every_source) as session:
                items = await _in_order(
                    self._prepare(element, chosen, of_element, session, frames, files)
                    for element, chosen, of_element in zip(elements, options, sources, strict=True)
                )
            files.all_here()
            return await self._decode(items, frames)

    async def _decode(self, items: Sequence[_Item], frames: FrameSampling) -> LoadedMedia:
        size = sum({item.uuid: item.job.result_bytes for item in items}.values())
        self._check_size(size)
        await self._budget.acquire(size)
        try:
            decoded = await _in_order(self._finish(item, frames) for item in items)
        except BaseException:
            self._budget.release(size)
            raise
        return LoadedMedia(decoded, lambda: self._budget.release(size))

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
                expected = f"at most {limit} item(s) per prompt (limit_mm_per_prompt of this model)"
                raise self._too_many(f"{modality}: expected {expected}, got {count}")
        total, most = sum(counts.values()), self._settings.media_max_items
        if total > most:
            raise self._too_many(f"media: expected at most {most} items (MEDIA_MAX_ITEMS of this model), got {total}")

    def _too_many(self, message: str) -> MediaLimitError:
        self._observe(LimitRecord("items"))
        return MediaLimitError(message, "items")

    def close(self) -> None:
        """End the workers and threads; items that wait are dropped."""
        self._sources.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    async def _prepare(
        self,
        element: MediaElement,
        options: VisionOptions | None,
        sources: Sequence[Source],
        session: aiohttp.ClientSession | None,
        frames: FrameSampling,
        files: FileBytes,
    ) -> _Item:
        """The element with its file; ``job.result_bytes`` is what it will need, 0 if the cache has it."""
        if options is not None and element.modality == "video" and not element.listed:
            options = with_sampling(options, frames)
        with self._counted():
            parts = await _in_order(
                self._sources.read(source, name, session, files.count)
                for (name, _), source in zip(element.files, sources, strict=True)
            )
            name = functools.partial(_named, element, parts, options, frames)
            encoded, uuid = await asyncio.get_running_loop().run_in_executor(self._executor, name)
            job = self._decoder.job(element.modality, element.field, frames)
            data = self._cache.find(uuid)
            if data is not None:
                return _Item(job, b"", uuid, data)
            job = replace(job, exact=options is not None)
            with stage("media.measure", item=element.field):
                look = await self._pool.measure(job, encoded)
            plan = self._sizing.plan(job, element.part, look, options)
            return _Item(plan.job, encoded, uuid, metadata=plan.metadata)

    async def _finish(self, item: _Item, frames: FrameSampling) -> DecodedMedia:
        data = item.data
        if data is None:
            with self._counted():
                data = await self._cache.get(item.uuid, functools.partial(self._decoded, item, frames))
        return DecodedMedia(data, item.uuid)

    async def _decoded(self, item: _Item, frames: FrameSampling) -> Any:
        with stage("media.decode", item=item.job.field):
            return await self._decoder.decode(item.job, item.encoded, frames, item.metadata)

    def _check_size(self, size: int) -> None:
        most = self._settings.media_request_bytes
        if size > most:
            with self._counted():
                raise MediaLimitError(
                    f"media: expected at most {most} decoded bytes (MEDIA_REQUEST_BYTES of this model), got {size}",
                    "request_bytes",
                )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count media that are refused for a limit."""
        try:
            yield
        except MediaLimitError as error:
            self._observe(LimitRecord(error.rule))
            raise


def _named(
    element: MediaElement, parts: Sequence[bytes | bytearray], options: VisionOptions | None, frames: FrameSampling
) -> tuple[bytes | bytearray, str]:
    """The element's file, and its name in the caches."""
    encoded = pack_frames(parts) if element.listed else parts[0]
    kind = element.modality
    # Modality and options are in front of the hash and not in it: no file can be made to have another item's name.
    if options is not None:
        kind += f"-qwen({name_of(options)})"
    elif kind == "video":
        kind += f"-{frames.num_frames}-{frames.fps}"
    if element.modality == "image" and frames.background is not None:
        kind += "-on-{}-{}-{}".format(*frames.background)
    return encoded, f"{kind}-{hashlib.sha256(encoded).hexdigest()}"


async def _in_order(jobs: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All results; or the error of the first job (in order, not in time) that fails, the others cancelled."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # the sessions that they use are closed next
