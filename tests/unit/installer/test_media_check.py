"""`doctor --media-url`: the backend's own rules, and a real connection to a host on this machine."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.installer import media_check
from tools.installer.checks import Check, Status
from tools.installer.repository import Model


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def check(folder: Path, url: str, **parameters: str) -> Check:
    lines = [f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    (folder / "config.pbtxt").write_text("\n".join(['backend: "vllm_custom"', *lines]))
    return media_check.check(sys.executable, Model.of(folder), url)


def test_a_host_that_is_not_allowed(tmp_path: Path) -> None:
    found = check(tmp_path, "http://media.example/a.png")
    assert found.status is Status.FAIL
    assert "ALLOWED_MEDIA_DOMAINS" in found.found
    assert "add the host" in found.fix


def test_a_port_that_is_not_allowed(tmp_path: Path) -> None:
    found = check(tmp_path, "http://127.0.0.1:9000/a.png", ALLOWED_MEDIA_DOMAINS="127.0.0.1")
    assert (found.status, "add host:port" in found.fix) == (Status.FAIL, True)


def test_a_private_address_needs_its_network(tmp_path: Path, listener: int) -> None:
    found = check(tmp_path, f"http://127.0.0.1:{listener}/", ALLOWED_MEDIA_DOMAINS=f"127.0.0.1:{listener}")
    assert found.status is Status.FAIL
    assert "ALLOWED_MEDIA_NETWORKS (127.0.0.1)" in found.found


def test_a_host_that_answers(tmp_path: Path, listener: int) -> None:
    allowed = {"ALLOWED_MEDIA_DOMAINS": f"127.0.0.1:{listener}", "ALLOWED_MEDIA_NETWORKS": "127.0.0.0/8"}
    found = check(tmp_path, f"http://127.0.0.1:{listener}/a.png", **allowed)
    assert (found.status, found.found) == (Status.OK, "allowed, and reached at 127.0.0.1")


def test_a_host_that_cannot_be_reached(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        allowed = {"ALLOWED_MEDIA_DOMAINS": f"127.0.0.1:{port}", "ALLOWED_MEDIA_NETWORKS": "127.0.0.0/8"}
        found = check(tmp_path, f"http://127.0.0.1:{port}/a.png", **allowed)
    assert found.status is Status.FAIL
    assert "allowed, and cannot be reached" in found.found


def test_rules_that_are_wrong_themselves(tmp_path: Path) -> None:
    found = check(tmp_path, "http://a.example/", ALLOWED_MEDIA_NETWORKS="not a network")
    assert (found.status, "could not be asked" in found.found) == (Status.FAIL, True)
