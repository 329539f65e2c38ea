"""A process that lives as long as it is connected to another."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tools.installer.paths import BACKEND_SOURCES

SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    connection, _ = server.accept()
    sys.stdin.read()
"""
CONNECT = "import socket, sys; c = socket.create_connection(('127.0.0.1', {port})); sys.stdin.read()"
# A process of its own, below which the server is not.
WATCH = """
import socket, subprocess, sys
from vllm_custom.runtime.peer import PeerWatch
{connect}
PeerWatch("localhost", lambda: print("gone", flush=True), 0.2).start()
sys.stdin.read()
"""
HERE = 'c = socket.create_connection(("127.0.0.1", {port}))'
BELOW = "c = subprocess.Popen([sys.executable, '-c', {program!r}], stdin=subprocess.PIPE)"
AMONG_OWN = 's = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(s.getsockname())'


def start(program: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(BACKEND_SOURCES / "vllm_custom")}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def says(process: subprocess.Popen[str], seconds: float) -> bool:
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], seconds)[0])


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with a server for one connection, and its port."""
    with start(SERVER) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


@pytest.mark.parametrize("of", ["it", "a process below it"])
def test_it_tells_when_the_other_process_has_gone(server: tuple[subprocess.Popen[str], int], of: str) -> None:
    process, port = server
    connect = HERE.format(port=port) if of == "it" else BELOW.format(program=CONNECT.format(port=port))
    with start(WATCH.format(connect=connect)) as watching:
        assert not says(watching, 1.5)
        process.kill()
        assert says(watching, 10)
        watching.communicate("")


@pytest.mark.parametrize("connect", ["", AMONG_OWN], ids=["no connection", "among its own"])
def test_what_has_not_come_has_not_gone(connect: str) -> None:
    with start(WATCH.format(connect=connect)) as watching:
        assert not says(watching, 1.5)
        watching.communicate("")
