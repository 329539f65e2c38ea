"""Which requests have a key, and who is told that none is asked for."""

from __future__ import annotations

import asyncio
import http.client
import logging
from typing import Any

import pytest

from tests.support.triton_servers import FakeTriton, Model, frontend, serving
from vllm_custom_frontend import serve
from vllm_custom_frontend.keys import KeyRing, is_this_machine_only
from vllm_custom_frontend.options import ServerOptions


def test_a_key_is_known_in_utf8_and_in_latin1() -> None:
    ring = KeyRing(["caf\u00e9", "\u732b"])
    for known in ("caf\u00e9".encode(), "caf\u00e9".encode("latin-1"), "\u732b".encode(), b" caf\xe9 "):
        assert ring.has(known)
    for unknown in (b"", b"cafe", b"caf", b"caf\xc3", b"?", b"caf\xe9\xe9"):
        assert not ring.has(unknown)


async def test_clients_of_both_encodings_are_let_in() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address, api_keys=frozenset({"caf\u00e9"})) as client:

        def status(**headers: bytes) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=10)
            try:
                connection.putrequest("GET", "/v1/models")
                for name, value in headers.items():
                    connection.putheader(name.replace("_", "-"), value)
                connection.endheaders()
                return connection.getresponse().status
            finally:
                connection.close()

        async def of(**headers: bytes) -> int:
            return await asyncio.to_thread(status, **headers)

        assert await of(authorization="Bearer caf\u00e9".encode()) == 200
        assert await of(authorization="bearer  caf\u00e9".encode("latin-1")) == 200
        assert await of(x_api_key="caf\u00e9".encode()) == 200
        for wrong in (b"", b"Bearer", b"Bearer caf", b"Basic caf\xe9", b"caf\xe9"):
            assert await of(authorization=wrong) == 401


def test_addresses_of_this_machine_only() -> None:
    assert all(map(is_this_machine_only, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
    assert not any(map(is_this_machine_only, ("0.0.0.0", "::", "10.0.0.1", "gpu.internal")))


class _EndedError(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (ServerOptions(host="0.0.0.0"), True),
        (ServerOptions(host="::"), True),
        (ServerOptions(host="0.0.0.0", api_keys=frozenset({"k"})), False),
        (ServerOptions(), False),
    ],
)
def test_who_can_be_reached_without_a_key_is_warned(
    options: ServerOptions, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def make(_: Any) -> Any:
        raise _EndedError

    with caplog.at_level(logging.WARNING, "vllm_custom_frontend"), pytest.raises(_EndedError):
        serve.serve(make, options, "module", [], supervised=False)
    assert ("no keys are asked for (--api-key-file)" in caplog.text) == warned
