"""Fetch media over HTTP within :mod:`vllm_custom.media.sources.policy`; on the event loop, without ever blocking it.

A name is looked up once per hop, every address is checked, and the connection goes to the checked addresses: aiohttp
gets them from a resolver that looks nothing up, so that a name which changes its answer changes nothing.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.metrics import FetchRecord, Observe, ignore
from vllm_custom.media.sources.bodies import Body, FetchError, TooLargeError, coding_of
from vllm_custom.media.sources.policy import MediaPolicy, Refusal, Target, literal_address, loggable
from vllm_custom.media.sources.url_cache import UrlCache
from vllm_custom.runtime.async_utils import time_limit

_CONNECT_SECONDS = 10.0
_LOOK_UP_THREADS = 8
_WHOLE_STATUSES = frozenset({200, 203})  # 203 says that a proxy has changed something
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})  # RFC 9110, section 15.4
# Of one header, and of the status line: redirects to presigned URLs and security policies take thousands.
_MAX_HEADER_BYTES = 64 * 1024
_HEADERS = {"User-Agent": "vllm_custom", "Accept": "*/*", "Accept-Encoding": "identity"}

_checked_addresses: ContextVar[tuple[str, ...]] = ContextVar("_checked_addresses", default=())


def _uncounted(size: int) -> None:
    """Count nothing."""


class Resolver(Protocol):
    """Where names are looked up."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """All addresses of ``host``. Raises OSError where there are none."""
        ...

    def close(self) -> None:
        """Look nothing up any more."""
        ...


class SystemResolver:
    """The machine's own resolver, in threads of its own: a name server that hangs must not hold up anything else."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_LOOK_UP_THREADS, thread_name_prefix="vllm_custom_look_up")

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        answers = await asyncio.get_running_loop().run_in_executor(self._executor, look_up)
        return list(dict.fromkeys(str(answer[4][0]) for answer in answers))

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class FetchLimits:
    """Bytes of one body, seconds for one URL from look-up to last byte, fetches at a time, and bytes that are kept."""

    max_bytes: int
    timeout_seconds: float
    concurrency: int
    cache_bytes: int = 0


class Fetcher:
    """Fetches what the policy allows; one per model, used on one event loop."""

    def __init__(
        self,
        policy: MediaPolicy,
        limits: FetchLimits,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        observe: Observe = ignore,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._resolver = resolver or SystemResolver()
        self._tls = tls or ssl.create_default_context()
        self._observe = observe
        self._cache: UrlCache[Body] = UrlCache(limits.cache_bytes)
        self._slots = asyncio.Semaphore(limits.concurrency)

    def check(self, text: str, field: str) -> Target:
        """The target that ``text`` names; nothing is looked up or dialled.

        Raises:
            InvalidRequestError: the rule that the URL breaks.
        """
        decision = self._policy.check_url(text)
        if isinstance(decision, Refusal):
            shown = "" if decision is Refusal.MALFORMED else loggable(text)
            self._observe(FetchRecord("refused", decision.value, url=shown))
            raise InvalidRequestError(f"{field}: {_explain(decision, redirected=False)}")
        return decision

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Connections for the URLs of one request. They are not kept for the next: that one is another client's."""
        connector = aiohttp.TCPConnector(resolver=_CheckedAddresses(), use_dns_cache=False, ssl=self._tls)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(_CONNECT_SECONDS, self._limits.timeout_seconds)),
        ) as session:
            yield session

    async def fetch(
        self, session: aiohttp.ClientSession, target: Target, field: str, count: Callable[[int], None] = _uncounted
    ) -> Body:
        """What is at ``target``, at most the limit's bytes, within the limit's time.

        ``count`` is told how many bytes have come, as they come, and may raise.

        Raises:
            InvalidRequestError: a rule is broken on the way, or the server does not answer as it should.
        """
        seconds = self._limits.timeout_seconds
        async with self._slots:
            try:
                with self._observed(target) as done:
                    async with time_limit(seconds):
                        body = await self._follow(session, target, count)
                    done(body)
                return body
            except TooLargeError as error:
                raise MediaLimitError(f"{field}: {error}", "bytes") from error
            except FetchError as error:
                raise InvalidRequestError(f"{field}: {error}") from error
            except asyncio.TimeoutError as error:  # before ClientError: aiohttp's timeouts are both
                raise InvalidRequestError(
                    f"{field}: expected the file within {seconds:g} seconds (MEDIA_FETCH_TIMEOUT_SECONDS of this "
                    f"model), got no complete response"
                ) from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise InvalidRequestError(f"{field}: {_transport_failure(error)}") from error

    def close(self) -> None:
        """End the look-ups; connections have ended with their requests."""
        self._resolver.close()

    @contextmanager
    def _observed(self, target: Target) -> Iterator[Callable[[Body], None]]:
        """Report how the block ends; it says so where it got a body."""
        began = time.monotonic()
        result, rule, size = "failed", "", 0

        def done(body: Body) -> None:
            nonlocal result, size
            result, size = ("cached", 0) if body.from_cache else ("fetched", len(body))

        try:
            yield done
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        except FetchError as error:
            if error.rule is not None:
                result, rule = "refused", error.rule.value
            raise
        finally:
            self._observe(FetchRecord(result, rule, size, time.monotonic() - began, loggable(target.url)))

    async def _follow(self, session: aiohttp.ClientSession, target: Target, count: Callable[[int], None]) -> Body:
        hops = 0
        while True:
            _checked_addresses.set(await self._addresses(target, redirected=hops > 0))
            cached = self._cache.fresh(target.url)
            if cached is not None:
                return replace(cached, from_cache=True)
            headers = self._cache.validators(target.url)
            async with session.get(URL(target.url, encoded=True), headers=headers, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECT_STATUSES or location is None:
                    return await self._answer(target, response, count)
            hops += 1
            decision = self._policy.check_redirect(target, location, hops)
            if isinstance(decision, Refusal):
                raise FetchError(_explain(decision, redirected=True), decision)
            target = decision

    async def _addresses(self, target: Target, *, redirected: bool) -> tuple[str, ...]:
        literal = literal_address(target)
        try:
            addresses = (literal,) if literal else tuple(await self._resolver.resolve(target.host, target.port))
        except (OSError, UnicodeError) as error:
            raise FetchError("the URL's host name could not be resolved") from error
        if not addresses:
            raise FetchError("the URL's host name could not be resolved")
        if self._policy.check_addresses(addresses) is not None:
            raise FetchError(_explain(Refusal.ADDRESS, redirected=redirected), Refusal.ADDRESS)
        return addresses

    async def _answer(self, target: Target, response: aiohttp.ClientResponse, count: Callable[[int], None]) -> Body:
        if response.status == 304:
            cached = self._cache.freshen(target.url, response.headers)
            if cached is not None:
                return replace(cached, from_cache=True)
        body = await self._body(response, count)
        self._cache.store(target.url, response.headers, body)
        return body

    async def _body(self, response: aiohttp.ClientResponse, count: Callable[[int], None]) -> Body:
        if response.status not in _WHOLE_STATUSES:
            raise FetchError(f"the media server answered with HTTP status {response.status}")
        coding = coding_of(response.headers.getall("Content-Encoding", []))
        limit = self._limits.max_bytes
        data = bytearray()
        if (response.content_length or 0) > limit:
            raise TooLargeError(limit)
        async for chunk in response.content.iter_any():
            data += chunk
            count(len(chunk))
            if len(data) > limit:
                raise TooLargeError(limit)
        return Body(data, coding)


class _CheckedAddresses(AbstractResolver):
    """Gives aiohttp the addresses that the task has checked. Looks nothing up."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in _checked_addresses.get()
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _explain(rule: Refusal, *, redirected: bool) -> str:
    about_redirects = rule in (Refusal.DOWNGRADE, Refusal.REDIRECTS)
    return f"the URL {'redirects to a URL that ' if redirected and not about_redirects else ''}{rule.reason}"


def _transport_failure(error: Exception) -> str:
    """aiohttp's errors hold addresses and paths, so none of their text is passed on."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the TLS certificate of the media server is not valid for the URL's host"
    if isinstance(error, aiohttp.ClientSSLError):
        return "no TLS connection to the media server"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection to the media server"
    return "the media server closed the connection or sent an invalid HTTP response"
