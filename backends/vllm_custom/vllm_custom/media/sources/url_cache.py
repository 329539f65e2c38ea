"""What was fetched by URL, kept as its server allows: a shared cache in the sense of RFC 9111, in memory.

It guesses nothing: without an explicit lifetime an answer is asked about again each time. Whether a URL may be fetched
at all, and its host dialled, is judged before anybody looks here.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Generic, Protocol, TypeVar

# RFC 9110, section 5.6: token, with an argument that may be quoted.
_DIRECTIVE = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^,\s]*))?""")
_ENTRY_BYTES = 1024  # about what an entry takes in addition to its body: empty ones must not pile up for nothing
_SECONDS = re.compile(r"[0-9]{1,10}")


class Sized(Protocol):
    """What is kept: anything that knows its size in bytes."""

    def __len__(self) -> int: ...


_Body = TypeVar("_Body", bound=Sized)


@dataclass(frozen=True)
class _Entry(Generic[_Body]):
    """``validators`` are the headers that ask whether it still holds; ``fresh_until`` is the clock's time."""

    body: _Body
    validators: Mapping[str, str]
    fresh_until: float


class UrlCache(Generic[_Body]):
    """Bodies by URL; beyond ``max_bytes`` the least recently used go. For one event loop.

    All headers are mappings that ignore case, as aiohttp's do.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``max_bytes`` of 0 keeps nothing."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[_Body]] = OrderedDict()
        self._bytes = 0

    def fresh(self, url: str) -> _Body | None:
        """The body, where its server need not be asked."""
        entry = self._entries.get(url)
        if entry is None or self._clock() >= entry.fresh_until:
            return None
        self._entries.move_to_end(url)
        return entry.body

    def validators(self, url: str) -> Mapping[str, str]:
        """Request headers that make the server say 304 where what is kept still holds; empty for what is not kept."""
        entry = self._entries.get(url)
        return entry.validators if entry else {}

    def freshen(self, url: str, headers: Mapping[str, str]) -> _Body | None:
        """The body, after the server has said with 304 and ``headers`` that it still holds."""
        entry = self._entries.get(url)
        if entry is not None:
            self.store(url, headers, entry.body, entry.validators)
        return entry.body if entry else None

    def store(
        self, url: str, headers: Mapping[str, str], body: _Body, validators: Mapping[str, str] | None = None
    ) -> None:
        """Store what came with ``headers``, as far as they allow; what was kept before goes in any case.

        ``validators`` stand in where ``headers`` has none.
        """
        self._drop(url)
        now = self._clock()
        lifetime = lifetime_seconds(headers)
        found = _validators(headers) or validators or {}
        if lifetime is None or _size(url, body) > self._max_bytes or not (lifetime > 0 or found):
            return
        self._entries[url] = _Entry(body, found, now + lifetime)
        self._bytes += _size(url, body)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, url: str) -> None:
        entry = self._entries.pop(url, None)
        if entry is not None:
            self._bytes -= _size(url, entry.body)


def _size(url: str, body: Sized) -> int:
    return len(body) + len(url) + _ENTRY_BYTES


def lifetime_seconds(headers: Mapping[str, str]) -> float | None:
    """How long an answer may be used without asking again; 0 if it may be kept but not used so, None if not kept.

    RFC 9111, sections 3 (what a shared cache stores), 4.2.1 (lifetime) and 4.2.3 (age).
    """
    directives = _directives(headers.get("Cache-Control", ""))
    # Ours are the only request headers, and always the same: other answers to other headers do not concern us.
    if directives.keys() & {"no-store", "private"} or "Set-Cookie" in headers or "*" in headers.get("Vary", ""):
        return None
    if "no-cache" in directives:
        return 0.0
    for name in ("s-maxage", "max-age"):
        if name in directives:
            lifetime = _seconds(directives[name])
            break
    else:
        lifetime = _until_expiry(headers)
    return max(0.0, lifetime - _seconds(headers.get("Age", "0")))


def _directives(text: str) -> dict[str, str]:
    return {name.lower(): value.strip('"') for name, value in _DIRECTIVE.findall(text)}


def _seconds(text: str) -> float:
    return float(text) if _SECONDS.fullmatch(text.strip()) else 0.0


def _until_expiry(headers: Mapping[str, str]) -> float:
    try:
        expires, date = (parsedate_to_datetime(headers[name]) for name in ("Expires", "Date"))
        return (expires - date).total_seconds()
    except (KeyError, TypeError, ValueError):  # missing, not a date, or one without a time zone
        return 0.0


def _validators(headers: Mapping[str, str]) -> dict[str, str]:
    pairs = (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified"))
    return {ask: headers[told] for ask, told in pairs if told in headers}
