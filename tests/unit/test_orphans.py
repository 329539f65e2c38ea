"""The guard that ends what a killed process leaves behind; both backends have one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

BACKENDS = Path(__file__).parents[2] / "backends"
# What each backend gives it to complain to: a function, or Triton's logger.
GUARDS = {
    "vllm_custom": (BACKENDS / "vllm_custom/vllm_custom/orphans.py", "print"),
    "vllm": (BACKENDS / "vllm/vllm_backend_lib/orphans.py", "None"),
}
# A stub with an engine below it, which has a worker below it; then it says that all is up, and what to do comes in.
STUB = """
import importlib.util, subprocess, sys
spec = importlib.util.spec_from_file_location("orphans", {path!r})
orphans = importlib.util.module_from_spec(spec)
spec.loader.exec_module(orphans)
guard = orphans.OrphanGuard({complain})
engine = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], stdout=subprocess.DEVNULL)
print("up", flush=True)
sys.stdin.readline()
engine.kill()
guard.stop()
"""


@pytest.fixture(params=GUARDS.values(), ids=GUARDS.keys())
def stub(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    path, complain = request.param
    command = [sys.executable, "-c", STUB.format(path=str(path), complain=complain)]
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


def test_the_guard_goes_with_a_good_end_and_touches_nothing(stub: subprocess.Popen[str]) -> None:
    processes = below(stub, 3)
    worker = next(process for process in processes if process.name() == "sleep")
    stub.communicate("stop\n")
    assert stub.returncode == 0
    assert [process for process in processes if not is_gone(process)] == [worker]  # this stub has not ended it
    worker.kill()
