"""What a worker can no longer do, tried in a process that has confined itself as workers do."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, errno, json, mmap, os, resource, signal, socket, sys, threading
from pathlib import Path
from vllm_custom.media.decoders import confinement, landlock, seccomp
if sys.argv[2] == "landlock":
    seccomp.restrict = lambda _: False
if sys.argv[2] == "seccomp":
    landlock.restrict = lambda _: 0
model, folder = int(sys.argv[5]), sys.argv[1]
before, _ = socket.socketpair()
held = os.memfd_create("held")
os.ftruncate(held, 4096)
done = {"in force": confinement.confine(1 << 30, os.getppid())}
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, function):
    try:
        done[name] = repr(function())
    except (OSError, MemoryError, RuntimeError) as error:
        done[name] = type(error).__name__

def call(*arguments):
    result = libc.syscall(*(ctypes.c_long(argument) for argument in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result

def tcp():
    with socket.socket() as dialled:
        dialled.connect(("127.0.0.1", int(sys.argv[3])))

attempt("read a file", lambda: Path("/etc/passwd").read_text())
attempt("list a folder", lambda: os.listdir("/"))
attempt("write a file", lambda: Path(folder, "new").write_text("x"))
attempt("remove a file", lambda: os.remove(folder + "/there"))
attempt("connect", tcp)
attempt("run a program", lambda: os.execv("/bin/true", ["true"]))
attempt("signal the model", lambda: os.kill(model, signal.SIGUSR1))
attempt("limit the model", lambda: resource.prlimit(model, resource.RLIMIT_NOFILE, (1, 1)))
attempt("trace the model", lambda: call(101 if sys.argv[4] == "x86_64" else 117, 16, model, 0, 0))
attempt("make memory", lambda: os.memfd_create("mine"))
attempt("take much memory", lambda: len(bytearray(2 << 30)))
attempt("fork", os.fork)
if done["fork"] == "0":
    os._exit(0)

def allowed():
    memory = mmap.mmap(held, 4096)
    memory[:2] = b"ok"
    thread = threading.Thread(target=lambda: done.update(thread="ok"))
    thread.start()
    thread.join()
    return memory[:2]

attempt("work", allowed)
attempt("open many", lambda: [os.dup(held) for _ in range(100)])
print(json.dumps(done), flush=True)
"""
FILES = {"read a file", "list a folder", "write a file", "remove a file", "run a program"}
LIMITS = {"take much memory", "open many"}
SECCOMP = FILES | LIMITS | {"connect", "signal the model", "limit the model", "trace the model", "make memory", "fork"}


@pytest.fixture
def attempts(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What was tried and what came of it, under what the parameter names."""
    import socket

    (tmp_path / "there").write_text("x")
    model = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), request.param, str(port), platform.machine()]
        command += [str(model.pid)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    model.kill()
    model.wait()
    assert (tmp_path / "there").exists()
    assert not (tmp_path / "new").exists()
    return dict(json.loads(done.stdout))


def refused(attempts: dict[str, str]) -> set[str]:
    return {name for name, result in attempts.items() if result in ("OSError", "PermissionError", "MemoryError")}


@pytest.mark.parametrize("attempts", ["both"], indirect=True)
def test_a_worker_can_compute_and_nothing_else(attempts: dict[str, str]) -> None:
    if "seccomp" not in attempts["in force"]:
        pytest.skip("no seccomp on this machine")
    assert refused(attempts) == SECCOMP
    assert (attempts["work"], attempts["thread"]) == ("b'ok'", "ok")


@pytest.mark.parametrize("attempts", ["seccomp"], indirect=True)
def test_seccomp_alone_is_enough(attempts: dict[str, str]) -> None:
    if "seccomp" not in attempts["in force"]:
        pytest.skip("no seccomp on this machine")
    assert refused(attempts) == SECCOMP
    assert (attempts["work"], attempts["thread"]) == ("b'ok'", "ok")


@pytest.mark.parametrize("attempts", ["landlock"], indirect=True)
def test_landlock_alone_keeps_files_and_hosts_away(attempts: dict[str, str]) -> None:
    if not any(name.startswith("Landlock") for name in attempts["in force"]):
        pytest.skip("no Landlock on this machine")
    expected = FILES | LIMITS
    version = int(next(name for name in attempts["in force"] if name.startswith("Landlock")).split()[1])
    if version >= 4:
        expected |= {"connect"}
    if version >= 6:
        expected |= {"signal the model"}
    assert refused(attempts) >= expected
    assert (attempts["work"], attempts["thread"]) == ("b'ok'", "ok")
