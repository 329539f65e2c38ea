"""Fetching, against real servers on loopback addresses. Names come from a resolver of the test's own."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import threading
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.support.fetchers import LIMIT, get, make_fetcher, refused
from tests.support.media_servers import (
    MediaServer,
    NamedAddresses,
    Write,
    answer,
    certificates,
    drip,
    redirect,
    serving,
)
from vllm_custom.contract.hosts import HostPattern
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.sources.fetch import Fetcher, FetchLimits, SystemResolver
from vllm_custom.media.sources.policy import MediaPolicy

FILE = bytes(range(256)) * 16
# How long a server says nothing: far longer than any limit under test.
STALL_SECONDS = 30


@pytest.fixture
async def servers() -> AsyncIterator[list[MediaServer]]:
    """The same files on 127.0.0.1, 127.0.0.2 and ::1, on one port."""
    async with serving("127.0.0.1", "127.0.0.2", "::1", answers={"/a": answer(FILE)}) as made:
        yield made


@pytest.fixture
async def server() -> AsyncIterator[MediaServer]:
    async with serving("127.0.0.1", answers={"/a": answer(FILE)}) as (made,):
        yield made


async def test_the_request_is_plain_and_the_path_as_it_was_sent(server: MediaServer) -> None:
    fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]})
    server.answers["/a%2Fb+c"] = answer(FILE)
    assert await get(fetcher, f"http://Media.TEST:{server.port}/a%2Fb+c?sig=%3D%41+&x=[1]#part") == FILE
    (head,) = server.heads
    line, *headers = head.strip().split("\r\n")
    assert line == "GET /a%2Fb+c?sig=%3D%41+&x=[1] HTTP/1.1"
    assert sorted(headers) == sorted(
        [
            f"Host: media.test:{server.port}",
            "User-Agent: vllm_custom",
            "Accept: */*",
            "Accept-Encoding: identity",
        ]
    )


@pytest.mark.parametrize(("address", "dialled"), [("127.0.0.1", 0), ("127.0.0.2", 1), ("::1", 2)])
async def test_the_checked_address_is_dialled(servers: list[MediaServer], address: str, dialled: int) -> None:
    port = servers[0].port
    assert await get(make_fetcher(port, {"media.test": [[address]]}), f"http://media.test:{port}/a") == FILE
    assert [server.connections for server in servers] == [int(index == dialled) for index in range(3)]


async def test_a_name_that_changes_its_answer_is_looked_up_once(servers: list[MediaServer]) -> None:
    """DNS rebinding: a second look-up, by whoever dials, would end at 127.0.0.2."""
    port = servers[0].port
    resolver = NamedAddresses({"media.test": [["127.0.0.1"], ["127.0.0.2"]]})
    fetcher = make_fetcher(port, resolver, ["127.0.0.1/32"])
    assert await get(fetcher, f"http://media.test:{port}/a") == FILE
    assert resolver.asked == ["media.test"]
    assert [server.connections for server in servers] == [1, 0, 0]
    assert "ALLOWED_MEDIA_NETWORKS" in await refused(fetcher, f"http://media.test:{port}/a")
    assert [server.connections for server in servers] == [1, 0, 0]


async def test_a_name_that_changes_between_two_hops_is_checked_at_each(servers: list[MediaServer]) -> None:
    port = servers[0].port
    resolver = NamedAddresses({"media.test": [["127.0.0.1"], ["127.0.0.2"]]})
    servers[0].answers["/a"] = redirect("/b")
    fetcher = make_fetcher(port, resolver, ["127.0.0.1/32"])
    message = await refused(fetcher, f"http://media.test:{port}/a")
    assert "redirects to a URL that names a host with an address" in message
    assert resolver.asked == ["media.test"] * 2
    assert [server.connections for server in servers] == [1, 0, 0]


async def test_several_names_at_once_go_to_their_own_addresses(servers: list[MediaServer]) -> None:
    port = servers[0].port
    for index, server in enumerate(servers):
        server.answers["/a"] = answer(str(index).encode())
    fetcher = make_fetcher(port, {"zero.test": [["127.0.0.1"]], "one.test": [["127.0.0.2"]], "two.test": [["::1"]]})
    names = ["zero", "one", "two"] * 5
    async with fetcher.session() as session:
        bodies = await asyncio.gather(
            *(
                fetcher.fetch(session, fetcher.check(f"http://{name}.test:{port}/a", "image[0]"), "image[0]")
                for name in names
            )
        )
    assert [bytes(body.data) for body in bodies] == [b"0", b"1", b"2"] * 5


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["8.8.8.8", "::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
        ["0.0.0.0"],
    ],
)
async def test_one_bad_address_and_nothing_is_dialled(servers: list[MediaServer], addresses: list[str]) -> None:
    port = servers[0].port
    message = await refused(make_fetcher(port, {"media.test": [addresses]}, []), f"http://media.test:{port}/a?token=1")
    assert message == (
        "image[0]: the URL names a host with an address that is not allowed by ALLOWED_MEDIA_NETWORKS of this model"
    )
    assert [server.connections for server in servers] == [0, 0, 0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_literals_are_judged_and_dialled_without_a_look_up(servers: list[MediaServer], host: str) -> None:
    port = servers[0].port
    url = f"http://{host}:{port}/a"
    literals = ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
    resolver = NamedAddresses({})
    assert "ALLOWED_MEDIA_NETWORKS" in await refused(make_fetcher(port, resolver, [], literals=literals), url)
    assert sum(server.connections for server in servers) == 0
    assert await get(make_fetcher(port, resolver, literals=literals), url) == FILE
    assert resolver.asked == []
    assert [server.connections for server in servers] == ([0, 0, 1] if host == "[::1]" else [1, 0, 0])


@pytest.mark.parametrize(
    "url", ["http://evil.test:{port}/a", "http://user:hunter2@media.test:{port}/a", "http://media.test/a"]
)
async def test_a_url_that_is_refused_costs_no_look_up(server: MediaServer, url: str) -> None:
    resolver = NamedAddresses({"media.test": [["127.0.0.1"]], "evil.test": [["127.0.0.1"]]})
    await refused(make_fetcher(server.port, resolver), url.format(port=server.port))
    assert resolver.asked == []
    assert server.connections == 0


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_redirects_are_followed_without_cookies(server: MediaServer, status: str) -> None:
    server.answers |= {"/1": redirect("/folder/2", status), "/folder/2": redirect("../3", status)}
    server.answers["/3"] = redirect(f"http://other.test:{server.port}/a?x=%2F", status)
    resolver = NamedAddresses({"media.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]})
    assert await get(make_fetcher(server.port, resolver), f"http://media.test:{server.port}/1") == FILE
    assert server.targets == ["/1", "/folder/2", "/3", "/a?x=%2F"]
    assert not any("cookie" in head.lower() for head in server.heads)
    assert resolver.asked == ["media.test"] * 3 + ["other.test"]


async def test_the_fourth_redirect_is_not_followed(server: MediaServer) -> None:
    server.answers |= {f"/{hop}": redirect(f"/{hop + 1}") for hop in range(1, 5)}
    message = await refused(
        make_fetcher(server.port, {"media.test": [["127.0.0.1"]]}), f"http://media.test:{server.port}/1"
    )
    assert message == "image[0]: the URL redirects more than 3 times"
    assert server.targets == ["/1", "/2", "/3", "/4"]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://evil.test:{port}/a", "a host that is not allowed by ALLOWED_MEDIA_DOMAINS"),
        ("//evil.test:{port}/a", "a host that is not allowed by ALLOWED_MEDIA_DOMAINS"),
        ("http://127.0.0.2:{port}/a", "a host that is not allowed by ALLOWED_MEDIA_DOMAINS"),
        ("http://2130706434:{port}/a", "a host that is not allowed by ALLOWED_MEDIA_DOMAINS"),
        ("http://inside.test:{port}/a", "an address that is not allowed by ALLOWED_MEDIA_NETWORKS"),
        ("http://169.254.169.254:{port}/latest/meta-data/", "not allowed by ALLOWED_MEDIA_NETWORKS"),
        ("http://inside.test:1/a", "a port that is not allowed"),
        ("http://user:hunter2@media.test:{port}/a", "contains credentials"),
        ("file:///etc/passwd", "a scheme that is not allowed"),
        ("gopher://media.test:{port}/", "a scheme that is not allowed"),
    ],
)
async def test_a_redirect_to_what_is_forbidden_ends_there(location: str, reason: str) -> None:
    async with serving("127.0.0.1", "127.0.0.2", answers={"/a": answer(FILE)}) as (first, forbidden):
        first.answers["/r"] = redirect(location.format(port=first.port))
        names = {"media.test": [["127.0.0.1"]], "inside.test": [["127.0.0.2"]], "evil.test": [["127.0.0.2"]]}
        fetcher = make_fetcher(first.port, names, ["127.0.0.1/32"], literals=["169.254.169.254"])
        message = await refused(fetcher, f"http://media.test:{first.port}/r")
        assert reason in message
        assert "redirects to a URL that" in message
        assert (first.connections, forbidden.connections) == (1, 0)


@pytest.mark.parametrize(
    "status", ["204 x", "206 x", "304 x", "400 x", "401 x", "403 x", "404 x", "429 x", "500 x", "503 x"]
)
async def test_other_answers_are_refused_with_their_status(server: MediaServer, status: str) -> None:
    server.answers["/x"] = answer(b"" if status[0] in "23" else b"secret", status)
    message = await refused(
        make_fetcher(server.port, {"media.test": [["127.0.0.1"]]}), f"http://media.test:{server.port}/x"
    )
    assert message == f"image[0]: the media server answered with HTTP status {status[:3]}"


async def test_a_redirect_to_nowhere_is_a_status(server: MediaServer) -> None:
    server.answers["/x"] = answer(b"", "302 Found")
    fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]})
    assert "HTTP status 302" in await refused(fetcher, f"http://media.test:{server.port}/x")


async def test_failures_on_the_way_are_the_clients_errors_and_name_no_address(server: MediaServer) -> None:
    port = server.port
    fetcher = make_fetcher(port, {"media.test": [["127.0.0.1"]], "away.test": [["127.0.0.3"]], "none.test": [[]]})
    assert "no connection to the media server" in await refused(fetcher, f"http://away.test:{port}/a?token=1")
    assert "could not be resolved" in await refused(fetcher, f"http://none.test:{port}/a")
    server.answers |= {"/garbage": b"\x00\x01 secret\r\n\r\n", "/nothing": b"", "/header": answer(b"", X="a\0b")}
    for path in ("garbage", "nothing", "header"):
        message = await refused(fetcher, f"http://media.test:{port}/{path}")
        assert "closed the connection or sent an invalid HTTP response" in message


async def test_a_name_without_addresses(server: MediaServer) -> None:
    fetcher = Fetcher(MediaPolicy((HostPattern("media.test"),)), FetchLimits(LIMIT, 5, 1), NamedAddresses({}))
    assert "host name could not be resolved" in await refused(fetcher, "http://media.test/a")


async def stall(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(STALL_SECONDS)


class SlowNames(NamedAddresses):
    async def resolve(self, host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(STALL_SECONDS)
        return []


@pytest.mark.parametrize("way", [stall, drip, "slow names", "slow redirects"])
async def test_the_time_limit_holds_for_everything_together(server: MediaServer, way: Write | str) -> None:
    async def pause(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(redirect("/x"))
        await writer.drain()

    names = {"media.test": [["127.0.0.1"]]}
    resolver = SlowNames(names) if way == "slow names" else NamedAddresses(names)
    server.answers["/x"] = pause if isinstance(way, str) else way
    began = time.monotonic()
    message = await refused(
        make_fetcher(server.port, resolver, seconds=0.4), f"http://media.test:{server.port}/x?token=1"
    )
    assert 0.3 < time.monotonic() - began < STALL_SECONDS
    assert message == (
        "image[0]: expected the file within 0.4 seconds (MEDIA_FETCH_TIMEOUT_SECONDS of this model), "
        "got no complete response"
    )


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(chunked(bytes(1000)))
        await writer.drain()


async def endless_without_framing(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(1000))
        await writer.drain()


async def announced_and_never_sent(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"", Content_Length=str(LIMIT + 1)))
    await stall(writer)


@pytest.mark.parametrize("way", [endless, endless_without_framing, announced_and_never_sent, answer(bytes(LIMIT + 1))])
async def test_a_body_over_the_limit_is_left_where_it_is(server: MediaServer, way: Write | bytes) -> None:
    server.answers["/x"] = way
    began = time.monotonic()
    message = await refused(
        make_fetcher(server.port, {"media.test": [["127.0.0.1"]]}), f"http://media.test:{server.port}/x"
    )
    assert message == "image[0]: expected a file of at most 100000 bytes (MEDIA_MAX_BYTES of this model), got more"
    assert time.monotonic() - began < STALL_SECONDS


async def test_a_body_of_exactly_the_limit_is_taken(server: MediaServer) -> None:
    server.answers["/x"] = answer(bytes(LIMIT))
    fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]})
    assert len(await get(fetcher, f"http://media.test:{server.port}/x")) == LIMIT


async def surplus_later(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(FILE[:10]))
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.write(FILE[10:])
    await writer.drain()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (surplus_later, FILE[:10]),
        (answer(FILE, Content_Length="10"), None),
        (answer(FILE, Content_Length="10", Connection="keep-alive"), None),
        (answer(FILE, Content_Length="5000"), None),
        (answer(FILE, Content_Length="-1"), None),
        (answer(FILE, Content_Length="0x10"), None),
        (answer(FILE, Content_Length="1" * 30), None),
        # RFC 9112, section 6.3: both lengths at once is how requests are smuggled.
        (answer(chunked(FILE) + b"0\r\n\r\n", Transfer_Encoding="chunked"), None),
    ],
)
async def test_a_lying_content_length_gives_no_more_than_it_says(
    server: MediaServer, sent: bytes | Write, expected: bytes | None
) -> None:
    server.answers["/x"] = sent
    fetcher, url = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]}), f"http://media.test:{server.port}/x"
    if expected is None:
        await refused(fetcher, url)
    else:
        assert await get(fetcher, url) == expected


@pytest.mark.parametrize(
    ("coding", "body", "expected"),
    [
        ("gzip", gzip.compress(FILE), FILE),
        ("X-GZIP", gzip.compress(FILE), FILE),
        ("deflate", zlib.compress(FILE), FILE),
        ("deflate", zlib.compress(FILE)[2:-4], FILE),
        ("gzip", gzip.compress(FILE[:9]) + gzip.compress(FILE[9:]), FILE),
        ("gzip", gzip.compress(FILE) + bytes(9), FILE),
        ("aws-chunked", FILE, FILE),
        ("aws-chunked,gzip", gzip.compress(FILE), FILE),
        ("gzip, identity", gzip.compress(FILE), FILE),
        ("utf-8", FILE, FILE),
        ("none", FILE, FILE),
        ("identity", FILE, FILE),
        ("gzip", gzip.compress(bytes(LIMIT)), bytes(LIMIT)),
        # CVE-2018-1000518 and its kind: 100 MB in 100 kB.
        ("gzip", gzip.compress(bytes(90_000_000)), "expected a file of at most 100000 bytes"),
        ("deflate", zlib.compress(bytes(LIMIT + 1)), "expected a file of at most 100000 bytes"),
        ("gzip", gzip.compress(FILE)[:-20], "a truncated gzip body"),
        ("gzip", FILE, "sent a damaged gzip body"),
        ("gzip", b"", "a truncated gzip body"),
        ("gzip", gzip.compress(b"x") * 17, "sent a damaged gzip body"),
        ("gzip", gzip.compress(bytes(LIMIT)) + gzip.compress(b"x"), "expected a file of at most 100000 bytes"),
        ("aws-chunked, br", FILE, "Content-Encoding that was not requested"),
        ("zstd", FILE, "Content-Encoding that was not requested"),
        ("br", FILE, "Content-Encoding that was not requested"),
        ("gzip, gzip", gzip.compress(gzip.compress(FILE)), "Content-Encoding that was not requested"),
    ],
)
async def test_packed_bodies_are_unpacked_up_to_the_limit(
    server: MediaServer, coding: str, body: bytes, expected: bytes | str
) -> None:
    server.answers["/x"] = answer(body, Content_Encoding=coding)
    fetcher, url = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]}), f"http://media.test:{server.port}/x"
    if isinstance(expected, str):
        assert expected in await refused(fetcher, url)
    else:
        assert await get(fetcher, url) == expected


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.0 200 OK\r\n\r\n" + FILE,
        b"HTTP/1.1 200 \r\nContent-Length: 4096\r\n\r\n" + FILE,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + answer(FILE),
        answer(FILE, "203 Non-Authoritative Information"),
        answer(FILE, Content_Security_Policy="img-src " + "https://cdn.example.com " * 1000),
        answer(FILE, Content_Disposition='attachment; filename="\u00e4.png"'),
        answer(FILE, **{f"X-Amz-Meta-{number}": "x" * 20 for number in range(90)}),
        answer(FILE, Set_Cookie="a=b; Expires=Wed, 21 Oct 2037 07:28:00 GMT"),
        HEAD + b"transfer-encoding: Chunked\r\n\r\n" + chunked(FILE) + b"0;last=1\r\nX-Checksum: 1\r\n\r\n",
        HEAD + b"Content-Type:\r\nContent-Length:4096   \r\n\r\n" + FILE,
        HEAD + b"Content-Encoding: \r\n\r\n" + FILE,
    ],
)
async def test_odd_answers_that_are_legal_are_taken(server: MediaServer, sent: bytes) -> None:
    server.answers["/x"] = sent
    fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]})
    assert await get(fetcher, f"http://media.test:{server.port}/x") == FILE


async def test_a_presigned_url_of_four_kilobytes_and_a_redirect_to_one(server: MediaServer) -> None:
    """The query goes out as it was signed."""
    query = "X-Amz-Signature=%2F" + "aB3%2B" * 700 + "&X-Amz-Expires=3600"
    signed = f"http://media.test:{server.port}/a?{query}"
    server.answers["/r"] = redirect(signed)
    fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]})
    for url in (signed, f"http://media.test:{server.port}/r"):
        assert await get(fetcher, url) == FILE
        assert server.targets[-1] == f"/a?{query}"


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[tuple[MediaServer, ssl.SSLContext]]:
    pytest.importorskip("cryptography")
    server_context, client_context = certificates(tmp_path, "media.test", "127.0.0.1")
    async with serving("127.0.0.1", tls=server_context, answers={"/a": answer(FILE)}) as (server,):
        yield server, client_context


TLS_NAMES: dict[str, Any] = {"media.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}


@pytest.mark.parametrize("host", ["media.test", "127.0.0.1"])
async def test_tls_with_the_right_name(tls: tuple[MediaServer, ssl.SSLContext], host: str) -> None:
    server, trusting = tls
    fetcher = make_fetcher(server.port, TLS_NAMES, tls=trusting, literals=["127.0.0.1"])
    assert await get(fetcher, f"https://{host}:{server.port}/a") == FILE


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_with_a_wrong_name_or_an_unknown_authority(
    tls: tuple[MediaServer, ssl.SSLContext], trusted: bool
) -> None:
    server, trusting = tls
    fetcher = make_fetcher(server.port, TLS_NAMES, tls=trusting if trusted else None)
    host = "other.test" if trusted else "media.test"
    message = await refused(fetcher, f"https://{host}:{server.port}/a?token=1")
    assert "TLS certificate of the media server is not valid" in message
    assert server.heads == []


async def test_tls_is_not_spoken_with_a_plain_server() -> None:
    async def speak_first(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(FILE))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak_first, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        fetcher = make_fetcher(port, {"media.test": [["127.0.0.1"]]})
        assert "no TLS connection" in await refused(fetcher, f"https://media.test:{port}/a")


async def test_a_redirect_from_https_to_http_is_refused(
    tls: tuple[MediaServer, ssl.SSLContext], server: MediaServer
) -> None:
    secure, trusting = tls
    fetcher = Fetcher(
        MediaPolicy(
            (HostPattern("media.test", port=secure.port), HostPattern("media.test", port=server.port)),
            (ip_network("127.0.0.0/8"),),
        ),
        FetchLimits(LIMIT, 5, 1),
        NamedAddresses({"media.test": [["127.0.0.1"]]}),
        trusting,
    )
    secure.answers["/r"] = redirect(f"http://media.test:{server.port}/a")
    server.answers["/r"] = redirect(f"https://media.test:{secure.port}/a")
    message = await refused(fetcher, f"https://media.test:{secure.port}/r")
    assert message == "image[0]: the URL redirects from https to http, which is not allowed"
    assert server.connections == 0
    assert await get(fetcher, f"http://media.test:{server.port}/r") == FILE, "upgrades are followed"


async def test_no_more_fetches_at_a_time_than_the_limit(server: MediaServer) -> None:
    unanswered = 0
    most = 0

    async def slow(writer: asyncio.StreamWriter) -> None:
        nonlocal unanswered, most
        unanswered += 1
        most = max(most, unanswered)
        await asyncio.sleep(0.05)
        unanswered -= 1
        writer.write(answer(FILE))
        await writer.drain()

    server.answers["/x"] = slow
    fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]}, concurrency=3)
    url = f"http://media.test:{server.port}/x"
    assert await asyncio.gather(*(get(fetcher, url) for _ in range(12))) == [FILE] * 12
    assert server.connections == 12
    assert most == 3


async def test_a_cancelled_fetch_closes_its_connection_and_frees_its_place(server: MediaServer) -> None:
    begun = asyncio.Event()

    async def never_ending(writer: asyncio.StreamWriter) -> None:
        begun.set()
        await drip(writer)

    server.answers["/x"] = never_ending
    fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]}, concurrency=1)
    task = asyncio.create_task(get(fetcher, f"http://media.test:{server.port}/x"))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)
    await asyncio.wait_for(server.all_closed.wait(), 5)
    assert await get(fetcher, f"http://media.test:{server.port}/a") == FILE


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        (proxy,) = await stack.enter_async_context(serving("127.0.0.2", answers={"/a": answer(b"proxied")}))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.2:{proxy.port}")
        (tmp_path / "netrc").write_text("machine media.test login user password hunter2\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        fetcher = make_fetcher(server.port, {"media.test": [["127.0.0.1"]]})
        assert await get(fetcher, f"http://media.test:{server.port}/a") == FILE
        assert proxy.connections == 0
        assert "authorization" not in server.heads[0].lower()


async def test_the_machines_resolver_is_asked_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        threads.append(threading.current_thread())
        return [
            (0, 0, 0, "", ("127.0.0.9", port)),
            (0, 0, 0, "", ("127.0.0.9", port)),
            (0, 0, 0, "", ("::9", port, 0, 0)),
        ]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    assert await SystemResolver().resolve("media.test", 80) == ["127.0.0.9", "::9"]
    assert threads
    assert threading.current_thread() not in threads


async def test_every_url_is_counted_once_by_its_result(server: MediaServer) -> None:
    records: list[Any] = []
    names = {"media.test": [["127.0.0.1"]], "bad.test": [["10.0.0.1"]]}
    fetcher = make_fetcher(server.port, names, observe=records.append, seconds=0.3)
    server.answers |= {"/stall": stall, "/r": redirect("http://evil.test/")}
    base = f"media.test:{server.port}"
    await get(fetcher, f"http://{base}/a?key=secret")
    for url in ("http://evil.test/", f"http://bad.test:{server.port}/", f"http://{base}/r"):
        await refused(fetcher, url)
    for path in ("missing", "stall"):
        await refused(fetcher, f"http://{base}/{path}")
    patient = make_fetcher(server.port, names, observe=records.append, seconds=STALL_SECONDS)
    task = asyncio.create_task(get(patient, f"http://{base}/stall"))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [(record.result, record.rule) for record in records] == [
        ("fetched", ""),
        ("refused", "host"),
        ("refused", "address"),
        ("refused", "host"),
        ("failed", ""),
        ("failed", ""),
        ("cancelled", ""),
    ]
    assert [record.size for record in records] == [len(FILE)] + [0] * 6
    assert records[0].seconds > 0
    assert records[5].seconds >= 0.3
    assert [record.url for record in records[:4]] == [
        f"http://{base}/a",
        "http://evil.test/",
        f"http://bad.test:{server.port}/",
        f"http://{base}/r",
    ]


async def test_records_hold_nothing_secret_of_refused_urls() -> None:
    records: list[Any] = []
    fetcher = make_fetcher(80, {}, observe=records.append)
    for url in ("http://evil.test/a?key=secret#secret", "http://user:secret@evil.test/", "http://user:secret"):
        with pytest.raises(InvalidRequestError):
            fetcher.check(url, "image[0]")
    assert [record.url for record in records] == ["http://evil.test/a", "http://evil.test/", ""]
