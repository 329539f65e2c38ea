"""What is kept of URLs, for how long, and that no rule is passed by: against real servers on loopback addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.support.fetchers import get, make_fetcher, refused
from tests.support.media_servers import MediaServer, NamedAddresses, answer, redirect, serving
from vllm_custom.media.sources.url_cache import UrlCache, lifetime_seconds

NOW = "Sat, 21 Nov 2026 10:00:00 GMT"
IN_A_MINUTE = "Sat, 21 Nov 2026 10:01:00 GMT"
FILE = b"first"
ENTRY = 1024 + len("a") + len(FILE)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def headers(**values: str) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("given_headers", "lifetime"),
    [
        (headers(), 0),
        (headers(Cache_Control="max-age=60"), 60),
        (headers(cache_control="public, MAX-AGE=60"), 60),
        (headers(Cache_Control='max-age="60"'), 60),
        (headers(Cache_Control="max-age=60, s-maxage=5"), 5),
        (headers(Cache_Control="s-maxage=0, max-age=60"), 0),
        (headers(Cache_Control="max-age=60", Age="50"), 10),
        (headers(Cache_Control="max-age=60", Age="70"), 0),
        (headers(Cache_Control="max-age=60, no-cache"), 0),
        (headers(Cache_Control="max-age=60, no-store"), None),
        (headers(Cache_Control="private, max-age=60"), None),
        (headers(Cache_Control="max-age=60", Set_Cookie="a=b"), None),
        (headers(Cache_Control="max-age=60", Vary="*"), None),
        (headers(Cache_Control="max-age=60", Vary="Accept-Encoding"), 60),
        (headers(Cache_Control="max-age=-1"), 0),
        (headers(Cache_Control="max-age=soon"), 0),
        (headers(Cache_Control="max-age=99999999999"), 0),
        (headers(Expires=IN_A_MINUTE, Date=NOW), 60),
        (headers(Expires=NOW, Date=IN_A_MINUTE), 0),
        (headers(Expires="0", Date=NOW), 0),
        (headers(Expires=IN_A_MINUTE), 0),
        (headers(Expires=IN_A_MINUTE, Date=NOW, Cache_Control="max-age=5"), 5),
        (headers(Last_Modified=NOW), 0),
    ],
    ids=lambda value: str(dict(value)) if isinstance(value, CIMultiDict) else str(value),
)
def test_lifetimes(given_headers: CIMultiDict[str], lifetime: float | None) -> None:
    assert lifetime_seconds(given_headers) == lifetime


@given(st.text(max_size=200))
def test_any_header_is_read(text: str) -> None:
    found = lifetime_seconds(headers(Cache_Control=text, Age=text, Expires=text, Date=text))
    assert found is None or found >= 0


def test_a_fresh_body_is_used_until_its_time_is_over() -> None:
    clock = Clock()
    cache: UrlCache[bytes] = UrlCache(ENTRY, clock)
    cache.store("a", headers(Cache_Control="max-age=60", ETag='"1"'), FILE)
    clock.now += 59
    assert cache.fresh("a") == FILE
    clock.now += 1
    assert cache.fresh("a") is None
    assert cache.validators("a") == {"If-None-Match": '"1"'}
    assert cache.freshen("a", headers(Cache_Control="max-age=5")) == FILE
    assert cache.fresh("a") == FILE
    assert cache.validators("a") == {"If-None-Match": '"1"'}, "a 304 need not repeat what has not changed"


def test_a_refusal_to_be_kept_ends_what_was_kept() -> None:
    cache: UrlCache[bytes] = UrlCache(ENTRY, Clock())
    cache.store("a", headers(Cache_Control="max-age=60"), FILE)
    assert cache.freshen("a", headers(Cache_Control="no-store")) == FILE
    assert cache.fresh("a") is None
    assert cache.validators("a") == {}
    assert cache.freshen("a", headers()) is None


@pytest.mark.parametrize(("max_bytes", "kept"), [(0, 0), (ENTRY - 1, 0), (ENTRY, 1), (2 * ENTRY, 2)])
def test_the_bound_holds_and_the_least_recently_used_goes(max_bytes: int, kept: int) -> None:
    cache: UrlCache[bytes] = UrlCache(max_bytes, Clock())
    for url in "abc":
        cache.store(url, headers(Cache_Control="max-age=60"), FILE)
    assert [url for url in "abc" if cache.fresh(url)] == list("abc")[3 - kept :]


def test_what_has_neither_lifetime_nor_validator_is_not_kept() -> None:
    cache: UrlCache[bytes] = UrlCache(ENTRY, Clock())
    cache.store("a", headers(), FILE)
    assert cache.freshen("a", headers()) is None


@pytest.fixture
async def server() -> AsyncIterator[MediaServer]:
    async with serving("127.0.0.1") as (made,):
        yield made


NAMES = {"media.test": [["127.0.0.1"]]}


async def test_without_the_parameter_each_url_is_fetched_each_time(server: MediaServer) -> None:
    server.answers["/a"] = answer(FILE, Cache_Control="max-age=60", ETag='"1"')
    fetcher = make_fetcher(server.port, NAMES)
    for _ in range(2):
        assert await get(fetcher, f"http://media.test:{server.port}/a") == FILE
    assert server.connections == 2
    assert not any("if-none-match" in head.lower() for head in server.heads)


async def test_a_fresh_file_is_not_fetched_again(server: MediaServer) -> None:
    records: list[Any] = []
    server.answers["/a"] = answer(FILE, Cache_Control="max-age=60")
    fetcher = make_fetcher(server.port, NAMES, cache_bytes=10_000, observe=records.append)
    for _ in range(3):
        assert await get(fetcher, f"http://media.test:{server.port}/a") == FILE
    assert await get(fetcher, f"http://media.test:{server.port}/a?other") == FILE
    assert server.targets == ["/a", "/a?other"]
    assert [(record.result, record.size) for record in records] == [
        ("fetched", len(FILE)),
        ("cached", 0),
        ("cached", 0),
        ("fetched", len(FILE)),
    ]


async def test_a_stale_file_is_asked_about_and_taken_anew_when_it_has_changed(server: MediaServer) -> None:
    content = {"tag": '"1"', "body": FILE}

    async def ask(writer: asyncio.StreamWriter) -> None:
        same = f"if-none-match: {content['tag']}" in server.heads[-1].lower()
        status = "304 Not Modified" if same else "200 OK"
        writer.write(answer(b"" if same else content["body"], status, ETag=content["tag"]))
        await writer.drain()

    server.answers["/a"] = ask
    fetcher = make_fetcher(server.port, NAMES, cache_bytes=10_000)
    url = f"http://media.test:{server.port}/a"
    assert [await get(fetcher, url), await get(fetcher, url)] == [FILE, FILE]
    content |= {"tag": '"2"', "body": b"second"}
    assert [await get(fetcher, url), await get(fetcher, url)] == [b"second", b"second"]
    assert server.connections == 4


async def test_not_modified_without_a_question_is_an_error(server: MediaServer) -> None:
    server.answers["/a"] = answer(b"", "304 Not Modified")
    fetcher = make_fetcher(server.port, NAMES, cache_bytes=10_000)
    assert "HTTP status 304" in await refused(fetcher, f"http://media.test:{server.port}/a")


async def test_a_kept_file_passes_no_rule_by(server: MediaServer) -> None:
    """The address is judged each time, and a redirect to what is not allowed stays refused."""
    server.answers |= {
        "/a": answer(FILE, Cache_Control="max-age=60"),
        "/r": redirect("http://evil.test/a"),
    }
    names = NamedAddresses({"media.test": [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]]})
    fetcher = make_fetcher(server.port, names, cache_bytes=10_000)
    url = f"http://media.test:{server.port}/a"
    assert await get(fetcher, url) == FILE
    assert "ALLOWED_MEDIA_NETWORKS" in await refused(fetcher, url)
    assert await get(fetcher, url) == FILE
    assert "ALLOWED_MEDIA_DOMAINS" in await refused(fetcher, f"http://media.test:{server.port}/r")
    assert "ALLOWED_MEDIA_DOMAINS" in await refused(fetcher, f"http://evil.test:{server.port}/a")
    assert names.asked == ["media.test"] * 4


async def test_errors_and_cut_off_bodies_are_not_kept(server: MediaServer) -> None:
    server.answers["/a"] = answer(b"no", "404 Not Found", Cache_Control="max-age=60")
    fetcher = make_fetcher(server.port, NAMES, cache_bytes=10_000)
    url = f"http://media.test:{server.port}/a"
    await refused(fetcher, url)
    server.answers["/a"] = answer(FILE, Cache_Control="max-age=60", Content_Length="100")
    await refused(fetcher, url)
    server.answers["/a"] = answer(FILE, Cache_Control="max-age=60")
    assert await get(fetcher, url) == FILE


async def test_a_packed_body_is_kept_as_it_came(server: MediaServer) -> None:
    import gzip

    server.answers["/a"] = answer(gzip.compress(FILE), Content_Encoding="gzip", Cache_Control="max-age=60")
    fetcher = make_fetcher(server.port, NAMES, cache_bytes=10_000)
    for _ in range(2):
        assert await get(fetcher, f"http://media.test:{server.port}/a") == FILE
    assert server.connections == 1
