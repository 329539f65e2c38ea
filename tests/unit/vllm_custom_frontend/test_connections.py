"""What a connection may take before its request is served, by real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_certificate
from tests.support.triton_servers import (
    CHAT,
    EVENTS,
    FakeTriton,
    FrontendClient,
    Model,
    Reply,
    frontend,
    serving,
    until,
)
from vllm_custom_frontend import connections

LIVE = b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n"
# The test fails where nothing comes for so long.
HANG_SECONDS = 30.0


class Wire:
    """A connection of raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> str:
        """Status line and headers of an answer, in lower case."""
        text = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), HANG_SECONDS)
        return text.decode().lower()

    async def status(self) -> int:
        return int((await self.head()).split(" ")[1])

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of one with a length."""
        head = await self.head()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split(" ")[1]), await asyncio.wait_for(self._reader.readexactly(length), HANG_SECONDS)

    async def rest(self) -> bytes:
        """All until the server closes the connection."""
        return await asyncio.wait_for(self._reader.read(), HANG_SECONDS)

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def wire(client: FrontendClient) -> AsyncIterator[Wire]:
    made = Wire(*await asyncio.open_connection("127.0.0.1", client.port))
    try:
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def server(model: Model | None = None, **options: Any) -> AsyncIterator[FrontendClient]:
    triton = FakeTriton(m=model or Model())
    async with serving(triton), frontend(triton.address, api_keys=frozenset({"k"}), **options) as client:
        yield client


def post(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    lines = [b"POST " + CHAT.encode() + b" HTTP/1.1", b"host: a", b"authorization: Bearer k", *headers]
    lines.append(b"content-length: %d" % (len(body) if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "head",
    [
        b"GET /live HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(101)) + b"\r\n",
        b"GET /live HTTP/1.1\r\nx: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /live HTTP/1.1\r\n" + b"x: yyyyyyyy\r\n" * 90 + b"z: " + b"y" * 7600 + b"\r\n\r\n",
        b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET /live HTTP/1.1\r\nx: " + b"y" * 400_000,
        b"GET /" + b"y" * 400_000,
    ],
    ids=["many", "long", "sum", "target", "endless", "endless target"],
)
async def test_headers_beyond_the_limits_are_refused_before_a_key_is_asked_for(head: bytes) -> None:
    async with server(max_header_bytes=8192, max_headers=100) as client:
        async with wire(client) as one:
            with contextlib.suppress(ConnectionError):
                await one.send(head)
            status, body = await one.answer()
            assert (status, b"--max-header" in body) == (431, True)
            assert await one.rest() == b"", "the connection is closed"
        async with wire(client) as other:
            await other.send(b"GET /live HTTP/1.1\r\n" + b"x: " + b"y" * 7000 + b"\r\nhost: a\r\n\r\n")
            assert await other.status() == 200


async def test_headers_beyond_both_limits_are_refused_once() -> None:
    line = b"x: " + b"y" * 77 + b"\r\n"
    async with server(max_header_bytes=8192, max_headers=100) as client, wire(client) as one:
        for part in (b"GET /live HTTP/1.1\r\n", line * 98, line * 5):
            await one.send(part)
            await asyncio.sleep(0.2)  # so that the server reads each by itself
        assert (await one.answer())[0] == 431
        assert await one.rest() == b""


async def test_endless_headers_take_no_memory() -> None:
    """400 MiB of header lines were all kept, from a client that has no key."""
    async with server() as client, wire(client) as one:

        async def flood() -> None:
            await one.send(b"GET /live HTTP/1.1\r\n")
            for _ in range(10_000):
                await one.send(b"x: " + b"y" * 60_000 + b"\r\n")
                await asyncio.sleep(0.001)

        with pytest.raises(ConnectionError):  # after the answer nobody takes them
            await flood()


@pytest.mark.parametrize("sent", [b"G", b"GET /live HTTP/1.1\r\n", b"GET /live HTTP/1.1\r\nx: y"])
async def test_headers_that_do_not_come_are_answered_408(sent: bytes) -> None:
    async with server(header_timeout_seconds=0.2) as client, wire(client) as one:
        await one.send(sent)
        status, body = await one.answer()
        assert (status, b"--header-timeout" in body) == (408, True)
        assert await one.rest() == b""


async def test_refusals_are_counted() -> None:
    async with frontend("127.0.0.1:1", header_timeout_seconds=0.5, max_headers=4) as client:
        async with wire(client) as one, wire(client) as two:
            await one.send(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 6)
            await two.send(b"GET / HTTP/1.1\r\n")
            assert [await one.status(), await two.status()] == [431, 408]
        counted = (await client.get("/metrics")).body.decode()
    for status in (431, 408):
        assert f'vllm_custom_frontend_refused_connections_total{{status="{status}"}} 1.0' in counted


async def test_handshakes_that_stall_hold_nobody_up(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    async with frontend("127.0.0.1:1", tls_certificate=str(certificate), tls_key=str(key)) as client:
        stalled = [await asyncio.open_connection("127.0.0.1", client.port) for _ in range(200)]
        for number, (_, writer) in enumerate(stalled):
            writer.write(b"\x16\x03\x01"[: number % 4])
        context = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", client.port, ssl=context), HANG_SECONDS
        )
        one = Wire(reader, writer)
        await one.send(LIVE)
        assert await one.status() == 200
        for _, waiting in stalled:
            waiting.close()
        one.close()


@pytest.mark.parametrize("before", [b"", LIVE], ids=["the first", "the second"])
async def test_headers_that_drip_are_answered_408(before: bytes) -> None:
    async with server(header_timeout_seconds=0.3) as client, wire(client) as one:
        if before:
            await one.send(before)
            assert (await one.answer())[0] == 200

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                await one.send(b"GET /live HTTP/1.1\r\n")
                while True:
                    await one.send(b"x: y\r\n")
                    await asyncio.sleep(0.05)

        dripping = asyncio.ensure_future(drip())
        assert await one.status() == 408
        dripping.cancel()


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with server(header_timeout_seconds=0.2) as client, wire(client) as one, wire(client) as other:
        assert await one.rest() == b""
        with contextlib.suppress(ConnectionError):  # it may be closed already
            await other.send(b"\r\n")
            assert await other.rest() == b""


async def test_a_connection_is_kept_for_the_time_that_was_given() -> None:
    async with server(keep_alive_seconds=1) as client, wire(client) as one:
        await one.send(LIVE)
        assert (await one.answer())[0] == 200
        began = time.monotonic()
        assert await one.rest() == b""
        assert time.monotonic() - began > 0.5
    async with server(keep_alive_seconds=600, header_timeout_seconds=0.3) as client, wire(client) as one:
        for pause in (0.0, 0.5):
            await asyncio.sleep(pause)  # longer than headers may take: none are on the way
            await one.send(LIVE)
            assert (await one.answer())[0] == 200


async def test_a_body_that_does_not_come_is_answered_408() -> None:
    async with server(body_timeout_seconds=0.3) as client, wire(client) as one:
        await one.send(post(b'{"model": "m"', length=1000))
        status, body = await one.answer()
        assert (status, b"--body-timeout" in body) == (408, True)
        assert await one.rest() == b""


async def test_a_body_that_nobody_reads_ends_too() -> None:
    """The key is wrong: the answer does not wait for the body, and neither does the end of the connection."""
    async with server(body_timeout_seconds=0.3, keep_alive_seconds=600) as client, wire(client) as one:
        await one.send(post(b"{", length=100_000).replace(b"Bearer k", b"Bearer z"))
        assert (await one.answer())[0] == 401
        assert await one.rest() == b""


async def test_an_answer_may_take_longer_than_any_of_the_times() -> None:
    async def slow(_: Any) -> Reply:
        await asyncio.sleep(0.6)
        return Reply()

    times = {"header_timeout_seconds": 0.2, "body_timeout_seconds": 0.2}
    async with server(Model(serve=slow), **times) as client, wire(client) as one:
        await one.send(post(b'{"model": "m"}') + post(b'{"model": "m"}') + b"GET /live")
        assert [(await one.answer())[0] for _ in range(2)] == [200, 200]
        assert await one.status() == 408, "what has only begun ends after the answers"


async def test_half_open_connections_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MOST_WAITING", 50)
    async with server() as client, contextlib.AsyncExitStack() as stack:
        half = [await stack.enter_async_context(wire(client)) for _ in range(200)]
        for one in half:
            with contextlib.suppress(ConnectionError):
                await one.send(b"GET /live HTTP/1.1\r\n")
        assert (await client.get("/live")).status == 200

        async def few() -> bool:
            return len(client.server.server_state.connections) <= 55

        await until(few)
        await half[-1].send(b"host: a\r\n\r\n")
        assert await half[-1].status() == 200, "the youngest are kept"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [100, 300_000, 3_000_000])
async def test_a_request_behind_one_that_is_too_large_is_answered(size: int, chunked: bool) -> None:
    large = post(b"x" * size)
    if chunked:
        head = large.partition(b"content-length")[0]
        large = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"
    async with server(max_body_bytes=50) as client, wire(client) as one:
        sending = asyncio.ensure_future(one.send(large + LIVE))
        assert (await one.answer())[0] == 413
        assert (await one.answer())[0] == 200
        await sending


async def test_an_answer_in_one_piece_says_how_long_it_is() -> None:
    async with server() as client, wire(client) as one:
        await one.send(post(b'{"model": "m"}'))
        head = await one.head()
        assert "content-length: 2\r\n" in head
        assert "transfer-encoding" not in head


async def test_http_1_0_gets_no_chunks() -> None:
    async def events(_: Any) -> Reply:
        return Reply(200, ("data: 0\n\n", "data: 1\n\n"), EVENTS)

    async with server(Model(serve=events)) as client:
        for request in (post(b'{"model": "m"}'), LIVE):
            async with wire(client) as one:
                await one.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
                head, body = await one.head(), await one.rest()
                assert "transfer-encoding" not in head
                assert body in (b"data: 0\n\ndata: 1\n\n", b'{"status":"live"}')


async def test_what_is_no_http_is_answered_400() -> None:
    async with server() as client, wire(client) as one:
        await one.send(b"what\r\n\r\n")
        assert (await one.answer())[0] == 400
