"""Ports that are chosen, and ports that are taken."""

import socket
from collections.abc import Iterator

import pytest

from tools.installer import ports
from tools.installer.console import BuildError

HOST = "127.0.0.1"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_zero_takes_free_ones_that_differ() -> None:
    taken: set[int] = set()
    chosen = [ports.choose(HOST, 0, "--http-port", taken) for _ in range(20)]
    assert len(set(chosen)) == 20
    assert all(ports.is_free(HOST, port) for port in chosen)


def test_a_taken_port_is_named_with_its_flag(taken_port: int) -> None:
    assert not ports.is_free(HOST, taken_port)
    with pytest.raises(BuildError, match=f"port {taken_port} on 127.0.0.1 is taken") as caught:
        ports.choose(HOST, taken_port, "--grpc-port", set())
    assert "--grpc-port" in caught.value.fix


def test_a_port_given_twice_is_refused() -> None:
    taken: set[int] = set()
    port = ports.choose(HOST, ports.choose(HOST, 0, "--http-port", set()), "--http-port", taken)
    with pytest.raises(BuildError, match="given twice"):
        ports.choose(HOST, port, "--grpc-port", taken)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(BuildError, match=r"cannot listen on 192\.0\.2\.1"):
        ports.is_free("192.0.2.1", 8000)


@pytest.mark.parametrize(
    ("host", "address"),
    [("::1", "::1"), ("[::1]", "::1"), (" 0.0.0.0 ", "0.0.0.0"), ("[::]", "::"), ("fe80::1%eth0", "fe80::1%eth0")],
)
def test_what_to_listen_on(host: str, address: str) -> None:
    assert ports.address(host) == address


def test_a_name_is_looked_up() -> None:
    """tritonserver listened on 255.255.255.255 instead, and never became ready."""
    assert ports.address("localhost") in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("", "no address to listen on"),
        (" [] ", "no address to listen on"),
        ("none.invalid", "cannot listen on none.invalid: "),
        ("a" * 70, "cannot listen on aaa"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(host: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BuildError, match=said):
        ports.address(host)


@pytest.mark.parametrize("port", [-1, 65_536, 10**9])
def test_a_port_that_does_not_exist_is_refused(port: int) -> None:
    with pytest.raises(BuildError, match=f"--openai-port: expected a port from 0 to 65535, got {port}"):
        ports.choose(HOST, port, "--openai-port", set())


def test_an_empty_address_is_refused() -> None:
    """It would have been all of this machine's."""
    with pytest.raises(BuildError, match="no address to listen on"):
        ports.choose("", 0, "--http-port", set())
