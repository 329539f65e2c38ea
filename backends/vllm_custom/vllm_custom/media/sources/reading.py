"""Get the bytes of an element, wherever they are: judged first and at once, read afterwards and off the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import aiohttp

from vllm_custom.contract.settings import Settings
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.metrics import Observe
from vllm_custom.media.sources.fetch import Fetcher, FetchLimits
from vllm_custom.media.sources.local import LocalFiles
from vllm_custom.media.sources.policy import MediaPolicy, Target
from vllm_custom.media.sources.reference import encoded_bytes, not_allowed, scheme_of
from vllm_custom.media.sources.tls import client_context
from vllm_custom.observability import stage
from vllm_custom.runtime.async_utils import time_limit

# Of a reference so much is looked at; it is longer than any that is allowed.
_MAX_REFERENCE_BYTES = 40_000
_FILE_THREADS = 4  # of their own: a network file system may keep them

Bytes: TypeAlias = "bytes | bytearray"


@dataclass(frozen=True)
class LocalFile:
    """A file: URL, not looked at yet."""

    url: str


Source: TypeAlias = "Target | LocalFile | bytes"


class Sources:
    """Where the media of one model may come from. For one event loop."""

    def __init__(self, settings: Settings, executor: Executor, observe: Observe, fetcher: Fetcher | None) -> None:
        """
        Args:
            settings: of the model.
            executor: for decoding base64 and unpacking.
            observe: told about each URL.
            fetcher: for tests.
        """
        self._executor = executor
        self._max_bytes = settings.media_max_bytes
        self._seconds = settings.media_fetch_timeout_seconds
        self._fetcher = fetcher or (_fetcher(settings, observe) if settings.allowed_media_domains else None)
        root = settings.allowed_local_media_path
        self._files = LocalFiles(Path(root)) if root else None
        self._file_threads = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix="vllm_custom_files")

    def locate(self, raw: bytes, field: str) -> Source:
        """Where an element's file is. Cheap: no look-up, no base64.

        Args:
            raw: as the client sent it.
            field: name and index for messages, e.g. ``"image[0]"``.

        Raises:
            InvalidRequestError: a reference that this model does not allow.
        """
        scheme = scheme_of(raw)
        if scheme in ("http", "https"):
            if self._fetcher is None:
                raise not_allowed(field, scheme, " (ALLOWED_MEDIA_DOMAINS is empty)")
            return self._fetcher.check(_text(raw), field)
        if scheme == "file":
            if self._files is None:
                raise not_allowed(field, scheme, " (ALLOWED_LOCAL_MEDIA_PATH is not set)")
            return LocalFile(_text(raw))
        return raw

    @asynccontextmanager
    async def session(self, sources: Iterable[Source]) -> AsyncIterator[aiohttp.ClientSession | None]:
        """Connections for the URLs of one request, if it has any."""
        if self._fetcher is None or not any(isinstance(source, Target) for source in sources):
            yield None
            return
        async with self._fetcher.session() as session:
            yield session

    def at_most(self, source: Source) -> int:
        """How many bytes its file may have."""
        return min(len(source), self._max_bytes) if isinstance(source, bytes) else self._max_bytes

    async def read(
        self, source: Source, field: str, session: aiohttp.ClientSession | None, count: Callable[[int], None]
    ) -> Bytes:
        """The encoded file; ``count`` is told how many bytes have come, as they come, and may raise.

        Raises:
            InvalidRequestError: it cannot be had, is too large, or is no base64.
        """
        came = 0
        if isinstance(source, LocalFile):
            with stage("media.read", item=field):
                data: Bytes = await self._read_file(source.url, field)
        else:
            if isinstance(source, Target):
                assert self._fetcher is not None
                assert session is not None
                with stage("media.fetch", item=field):
                    body = await self._fetcher.fetch(session, source, field, count)
                came = len(body)
                unpack: Callable[[], Bytes] = functools.partial(body.decoded, field, self._max_bytes)
            else:
                unpack = functools.partial(encoded_bytes, source, field, self._max_bytes)
            data = await asyncio.get_running_loop().run_in_executor(self._executor, unpack)
        count(max(len(data) - came, 0))
        return data

    def close(self) -> None:
        """Look nothing up any more; connections have ended with their requests."""
        if self._fetcher is not None:
            self._fetcher.close()
        self._file_threads.shutdown(wait=False, cancel_futures=True)

    async def _read_file(self, url: str, field: str) -> bytes:
        assert self._files is not None
        read = functools.partial(self._files.read, url, field, self._max_bytes)
        try:
            async with time_limit(self._seconds):
                return await asyncio.get_running_loop().run_in_executor(self._file_threads, read)
        except asyncio.TimeoutError as error:
            raise InvalidRequestError(
                f"{field}: expected the file within {self._seconds} seconds (MEDIA_FETCH_TIMEOUT_SECONDS of this "
                f"model), it was not read in time"
            ) from error


def _text(raw: bytes) -> str:
    # What is not UTF-8 is refused as malformed.
    return raw[:_MAX_REFERENCE_BYTES].decode("utf-8", "surrogateescape")


def _fetcher(settings: Settings, observe: Observe) -> Fetcher:
    return Fetcher(
        MediaPolicy(settings.allowed_media_domains, settings.allowed_media_networks),
        FetchLimits(
            settings.media_max_bytes,
            settings.media_fetch_timeout_seconds,
            settings.media_fetch_concurrency,
            settings.media_url_cache_bytes,
        ),
        tls=client_context(settings),
        observe=observe,
    )
