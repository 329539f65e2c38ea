"""Fetchers with a resolver of the test's own, and what a client gets from them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from tests.support.media_servers import NamedAddresses
from vllm_custom.contract.hosts import HostPattern
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.metrics import Observe, ignore
from vllm_custom.media.sources.fetch import Fetcher, FetchLimits
from vllm_custom.media.sources.policy import MediaPolicy

HERE = ("127.0.0.0/8", "::1/128")
LIMIT = 100_000
# What no client may read in an answer.
SECRETS = ("127.0.0", "10.0.0", "169.254", "::1", "secret", "token", "hunter2")


def make_fetcher(
    port: int,
    names: dict[str, Sequence[Sequence[str]]] | NamedAddresses,
    networks: Sequence[str] = HERE,
    *,
    seconds: float = 20,
    concurrency: int = 8,
    tls: ssl.SSLContext | None = None,
    literals: Sequence[str] = (),
    observe: Observe = ignore,
    cache_bytes: int = 0,
) -> Fetcher:
    """Allows exactly the resolver's names (those that begin with ``evil`` not) and ``literals``, on ``port``."""
    resolver = names if isinstance(names, NamedAddresses) else NamedAddresses(names)
    hosts = [*(name for name in resolver._names if not name.startswith("evil")), *literals]
    return Fetcher(
        MediaPolicy(
            tuple(HostPattern.parse(f"{host}:{port}") for host in hosts), tuple(ip_network(text) for text in networks)
        ),
        FetchLimits(LIMIT, seconds, concurrency, cache_bytes),
        resolver,
        tls,
        observe,
    )


async def get(fetcher: Fetcher, url: str) -> bytes:
    async with fetcher.session() as session:
        body = await fetcher.fetch(session, fetcher.check(url, "image[0]"), "image[0]")
    return body.decoded("image[0]", LIMIT)


async def refused(fetcher: Fetcher, url: str) -> str:
    """The message that the client gets for ``url``."""
    with pytest.raises(InvalidRequestError) as error:
        await get(fetcher, url)
    message = str(error.value)
    assert message.startswith("image[0]: ")
    assert not [secret for secret in SECRETS if secret in message], message
    return message
