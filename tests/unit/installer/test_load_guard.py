"""A load that hangs is ended; what ends by itself is let."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tools.installer.load_guard import LoadGuard

# Waits in one thread for a child that ends when its input does, as tritonserver does for a stub.
SERVER = """
import os, subprocess, sys, threading
stub = subprocess.Popen([sys.executable, "-c", {stub!r}])
print(stub.pid, flush=True)
thread = threading.Thread(target=lambda: print(os.waitpid(stub.pid, 0)[1], flush=True))
thread.start()
thread.join()
"""


@contextmanager
def server(stub: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    command = [sys.executable, "-c", SERVER.format(stub=stub)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


def test_a_stub_that_is_waited_for_in_vain_is_killed() -> None:
    with server("import time; time.sleep(600)") as (process, stub), LoadGuard(process.pid, grace_seconds=0.2) as guard:
        assert process.stdout is not None
        assert process.stdout.readline() == "9\n"
    assert guard.ended == [stub]


def test_a_stub_that_ends_in_time_is_let() -> None:
    with server("import sys; sys.stdin.read()") as (process, _), LoadGuard(process.pid, grace_seconds=600) as guard:
        guard.look()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.readline() == "0\n"
        guard.look()
    assert guard.ended == []


def test_a_server_that_is_gone_is_nobodys_business() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    guard = LoadGuard(process.pid)
    guard.look()
    assert guard.ended == []


@pytest.mark.parametrize("grace", [0.0, 600.0])
def test_only_what_is_waited_for_is_looked_at(grace: float) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as stub:
        guard = LoadGuard(os.getpid(), grace)
        guard.look()
        assert guard.ended == []
        stub.communicate("\n")
