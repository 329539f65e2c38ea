"""Small HTTP servers on loopback addresses that answer what a test says, byte by byte, and a resolver to name them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """One whole HTTP answer; header names with ``_`` for ``-``, a Content-Length unless one is given."""
    lines = {"Content-Length": str(len(body)), "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return answer(b"moved", status, Location=location, Set_Cookie="session=secret")


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and then: every single read is in time."""
    writer.write(answer(b"", Content_Length="100000"))
    for _ in range(600):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


class MediaServer:
    """Answers by path (without the query); counts connections, and keeps the requests' heads."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Write] = {}
        self.heads: list[str] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.all_closed = asyncio.Event()
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def targets(self) -> list[str]:
        """The request targets, as they came."""
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._answer(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self.open -= 1
            if not self.open:
                self.all_closed.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        found = self.answers.get(head.split(" ")[1].partition("?")[0], answer(b"nothing", "404 Not Found"))
        if isinstance(found, bytes):
            writer.write(found)
            await writer.drain()
        else:
            await found(writer)

    async def end(self) -> None:
        """End the handlers that still run."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next round


@asynccontextmanager
async def serving(
    *addresses: str, tls: ssl.SSLContext | None = None, answers: Mapping[str, bytes | Write] | None = None
) -> AsyncIterator[list[MediaServer]]:
    """A server on each address, all on one port, so that only the address tells them apart."""
    made = [MediaServer() for _ in addresses]
    async with contextlib.AsyncExitStack() as stack:
        port = 0
        for server, address in zip(made, addresses, strict=True):
            server.answers.update(answers or {})
            running = await asyncio.start_server(server.serve, address, port, ssl=tls)
            stack.push_async_callback(server.end)
            stack.callback(running.close)
            port = server.port = running.sockets[0].getsockname()[1]
            server.port = port
        yield made


class NamedAddresses:
    """A resolver of fixed names. A name with several lists of addresses gives the next at each look-up."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._names = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []
        self.closed = False

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        await asyncio.sleep(0)
        if host not in self._names:
            raise OSError(-2, f"no such name: {host}, asked of 10.0.0.53")
        answers = self._names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def close(self) -> None:
        self.closed = True


def certificates(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, client's) contexts: a certificate for ``names`` by an authority that only the client's trusts.

    ``folder`` gets authority.pem, and server.pem, the certificate with its key.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def build(
        subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
        )
        if subject != issuer:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(signer, hashes.SHA256())

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = build("authority", "authority", authority_key, authority_key)
    leaf = build("server", "authority", key, authority_key)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    bundle = folder / "server.pem"
    bundle.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + leaf.public_bytes(pem)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(bundle)
    client = ssl.create_default_context(cadata=authority.public_bytes(pem).decode())
    return server, client
