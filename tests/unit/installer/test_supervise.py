"""The first process of a container: signals go on, orphans are reaped, and the status is the server's."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.processes import is_gone, wait_until
from tools.installer import ports, supervise
from tools.installer.console import BuildError
from tools.installer.paths import CHECKOUT

SERVER = """
import os, signal, sys, time
def stop(number, frame):
    print("asked", number, flush=True)
    sys.exit(3)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
if os.fork() == 0:  # an orphan, which ends a little later than its parent
    if os.fork() == 0:
        print("orphan", os.getpid(), flush=True)
        time.sleep(0.5)
        os._exit(0)
    os._exit(0)
os.wait()
while True:
    time.sleep(0.1)
"""
# As the first process of a container gets them: orphans come to it.
SUPERVISE = """
import sys
from tools.installer import processes, supervise
processes.adopt_orphans()
sys.exit(supervise.run(sys.argv[1:]))
"""


def start(*command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, *command], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_on_and_orphans_are_reaped(number: int) -> None:
    process = start(sys.executable, "-c", SERVER)
    assert process.stdout is not None
    orphan = int(process.stdout.readline().split()[1])
    deadline = time.monotonic() + 20
    while Path(f"/proc/{orphan}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.communicate()[0] == f"asked {int(number)}\n"
    assert process.returncode == 3


def test_a_server_that_is_killed_ends_it_as_a_shell_would() -> None:
    process = start(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    process.communicate(timeout=20)
    assert process.returncode == 128 + 9


@pytest.mark.parametrize(
    ("options", "openai", "said"),
    [
        (["--http-port={taken}"], None, "is taken, or not allowed"),
        (["--http-port={free}", "--grpc-port={free}"], None, "is given twice"),
        (["--http-port={free}"], "{free}", "is given twice"),
        (["--http-port={free}", "--metrics-port=99999"], None, "--metrics-port: expected a port"),
        (["--http-port={taken}", "--allow-http=false"], None, ""),
        (["--http-port={taken}", "--reuse-http-port=true"], None, ""),
        (["--http-port={free}"], "{other}", ""),
    ],
)
def test_ports_are_looked_at_before_the_start(options: list[str], openai: str | None, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: set[int] = set()
        numbers = {name: ports.choose("127.0.0.1", 0, "", taken) for name in ("free", "other", "grpc", "metrics")}
        named = {"taken": listening.getsockname()[1], **numbers}
        addresses = [f"--{service}-address=127.0.0.1" for service in ("http", "grpc", "metrics")]
        usual = [f"--grpc-port={named['grpc']}", f"--metrics-port={named['metrics']}", *addresses]
        command = ["tritonserver", *usual, *(option.format(**named) for option in options)]
        address = None if openai is None else ("127.0.0.1", int(openai.format(**named)))
        if not said:
            supervise.check_ports(command, address)
            return
        with pytest.raises(BuildError, match=said):
            supervise.check_ports(command, address)


def test_a_server_ends_with_what_supervises_it() -> None:
    process = start("sleep", "1000")
    children = psutil.Process(process.pid).children
    wait_until(lambda: [one.name() for one in children()] == ["sleep"])
    (server,) = children()
    process.kill()
    process.communicate()
    wait_until(lambda: is_gone(server.pid))
