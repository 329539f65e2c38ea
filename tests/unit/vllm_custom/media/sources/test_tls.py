"""Whom a model trusts among media servers, and what it shows them, by the files that config.pbtxt names."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.support.fetchers import get, make_fetcher, refused
from tests.support.media_servers import answer, certificates, serving
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError
from vllm_custom.media.sources.tls import client_context

pytest.importorskip("cryptography")


def settings(**parameters: object) -> Settings:
    given = {key: {"string_value": str(value)} for key, value in parameters.items()}
    return Settings.from_model_config({"name": "model", "parameters": given})


async def test_an_authority_of_the_operators_is_trusted_beside_the_systems(tmp_path: Path) -> None:
    server_context, _ = certificates(tmp_path, "media.test")
    trusting = client_context(settings(MEDIA_CA_FILE=tmp_path / "authority.pem"))
    assert trusting.cert_store_stats()["x509_ca"] > ssl.create_default_context().cert_store_stats()["x509_ca"]
    async with serving("127.0.0.1", tls=server_context, answers={"/a": answer(b"file")}) as (server,):
        url, names = f"https://media.test:{server.port}/a", {"media.test": [["127.0.0.1"]]}
        assert await get(make_fetcher(server.port, names, tls=trusting), url) == b"file"
        message = await refused(make_fetcher(server.port, names, tls=client_context(settings())), url)
    assert "TLS certificate of the media server is not valid" in message


@pytest.mark.parametrize("apart", [False, True])
async def test_a_server_that_asks_for_a_certificate_is_shown_it(tmp_path: Path, apart: bool) -> None:
    server_context, _ = certificates(tmp_path, "media.test")
    authority, bundle = tmp_path / "authority.pem", tmp_path / "server.pem"
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(authority)
    shown: dict[str, object] = {"MEDIA_CLIENT_CERTIFICATE_FILE": bundle}
    if apart:
        shown["MEDIA_CLIENT_KEY_FILE"] = bundle
    showing = client_context(settings(MEDIA_CA_FILE=authority, **shown))
    silent = client_context(settings(MEDIA_CA_FILE=authority))
    async with serving("127.0.0.1", tls=server_context, answers={"/a": answer(b"file")}) as (server,):
        url, names = f"https://media.test:{server.port}/a", {"media.test": [["127.0.0.1"]]}
        assert await get(make_fetcher(server.port, names, tls=showing), url) == b"file"
        assert "media server" in await refused(make_fetcher(server.port, names, tls=silent), url)


@pytest.mark.parametrize("name", ["MEDIA_CA_FILE", "MEDIA_CLIENT_CERTIFICATE_FILE"])
def test_files_that_are_no_certificates_end_the_load(tmp_path: Path, name: str) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=f"parameter {name}: expected a?.*certificate"):
        client_context(settings(**{name: wrong}))
    with pytest.raises(ConfigError, match=f"parameter {name}: expected the absolute path of a file"):
        settings(**{name: tmp_path})


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    certificates(tmp_path, "media.test")
    with pytest.raises(ConfigError, match="MEDIA_CLIENT_KEY_FILE needs MEDIA_CLIENT_CERTIFICATE_FILE"):
        client_context(settings(MEDIA_CLIENT_KEY_FILE=tmp_path / "server.pem"))
