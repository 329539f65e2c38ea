"""The guard that ends what a killed process leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tools.installer.paths import CHECKOUT

pytestmark = pytest.mark.slow

GUARD = CHECKOUT / "backends/vllm_custom/vllm_custom/kernel/orphans.py"
# A stub with an engine below it, which has a worker below it; then it says that all is up, and what to do comes in.
STUB = """
import importlib.util, subprocess, sys
spec = importlib.util.spec_from_file_location("orphans", {path!r})
orphans = importlib.util.module_from_spec(spec)
spec.loader.exec_module(orphans)
orphans.guard_against_orphans(print, end_server={end})
engine = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], stdout=subprocess.DEVNULL)
print("up", flush=True)
sys.stdin.readline()
"""


# A tritonserver, whose stub does not notice when it is killed.
SERVER = """
import subprocess, sys
stub = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
assert stub.stdout.readline() == "up\\n"
print(stub.pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def stub() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", STUB.format(path=str(GUARD), end=False)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process


def below(stub: subprocess.Popen[str], expected: int) -> list[psutil.Process]:
    """The processes under it, once all are there."""
    wait_until(lambda: len(psutil.Process(stub.pid).children(recursive=True)) == expected)
    return psutil.Process(stub.pid).children(recursive=True)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_process_that_was_killed(stub: subprocess.Popen[str], how: signal.Signals) -> None:
    processes = below(stub, 3)  # the guard, the engine and its worker
    stub.send_signal(how)
    stub.wait()
    wait_until(lambda: all(is_gone(process) for process in processes))


def test_nothing_outlives_the_server_of_a_stub_that_does_not_notice() -> None:
    """A stub, or its compile process, was once seen with parent 1 after tritonserver had been killed."""
    command = [sys.executable, "-c", SERVER, STUB.format(path=str(GUARD), end=False) + "import time; time.sleep(1000)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        stub = psutil.Process(int(server.stdout.readline()))
        wait_until(lambda: len(stub.children(recursive=True)) == 3)
        processes = [stub, *stub.children(recursive=True)]
        server.kill()
    wait_until(lambda: all(is_gone(process) for process in processes))


@pytest.mark.parametrize(("waits", "ends"), [(False, True), (True, False)])
def test_a_server_that_does_not_know_that_its_stub_was_killed_ends_where_that_is_wanted(
    waits: bool, ends: bool
) -> None:
    """One that waits for it, as at an unload, knows it."""
    program = SERVER.replace(
        "sys.stdin.readline()", "stub.wait()\nsys.stdin.readline()" if waits else "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, STUB.format(path=str(GUARD), end=True)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        stub = psutil.Process(int(server.stdout.readline()))
        wait_until(lambda: len(stub.children(recursive=True)) == 3)
        below = stub.children(recursive=True)
        stub.kill()
        wait_until(lambda: all(is_gone(process) for process in below))
        assert server.poll() == (-signal.SIGTERM if ends else None)
        server.communicate("stop\n")


def test_what_ends_by_itself_is_let(stub: subprocess.Popen[str]) -> None:
    processes = below(stub, 3)
    engine = next(process for process in processes if process.name() == "sh")
    guard = next(process for process in processes if process.name() not in ("sh", "sleep"))
    for process in (*engine.children(), engine):
        process.kill()
    stub.communicate("stop\n")
    assert stub.returncode == 0
    wait_until(lambda: is_gone(guard))


def test_a_second_guard_is_not_started() -> None:
    """The group has its leader: a subclass and its base may both ask."""
    program = "import os; os.setpgid(0, 0); " + STUB.format(path=str(GUARD), end=False)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        names = sorted(one.name() for one in below(process, 2))
        os.killpg(process.pid, signal.SIGKILL)
    assert names == ["sh", "sleep"]
