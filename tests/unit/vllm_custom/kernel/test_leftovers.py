"""Shared memory and sockets of killed processes go with them, or at the next start; those of others stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from tests.support.processes import is_gone, wait_until
from tools.installer.paths import CHECKOUT
from vllm_custom.kernel import leftovers

pytestmark = pytest.mark.slow

FOLDER = Path("/dev/shm")
GUARD = CHECKOUT / "backends/vllm_custom/vllm_custom/kernel/orphans.py"
# An engine as vLLM's is: a segment and a semaphore of multiprocessing, and a socket, held until it is killed. And the
# regions of a stub, as tritonserver names them.
ENGINE = """
import multiprocessing, os, socket, time, uuid
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=1024)
lock = multiprocessing.get_context("spawn").Lock()
regions = [f"{prefix}_{uuid.uuid4()}" for prefix in ("vllm_custom_0123456789ab", "triton_vllm_backend_shm_region")]
held = [SharedMemory(name, create=True, size=1024) for name in regions]
folder = os.environ["VLLM_RPC_BASE_PATH"]
listening = socket.socket(socket.AF_UNIX)
listening.bind(f"{folder}/{uuid.uuid4()}")
print(folder, memory.name.strip("/"), "sem." + lock._semlock.name.strip("/"), *regions, flush=True)
time.sleep(1000)
"""
# A guarded stub with an engine below it, whose names it passes on.
STUB = """
import importlib.util, subprocess, sys
spec = importlib.util.spec_from_file_location("orphans", {guard!r})
orphans = importlib.util.module_from_spec(spec)
spec.loader.exec_module(orphans)
orphans.guard_against_orphans(print)
engine = subprocess.Popen([sys.executable, "-c", {engine!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(engine.pid, engine.stdout.readline().strip(), flush=True)
sys.stdin.read()
"""


class Stub:
    """A stub that is up, and what its guard has noted."""

    def __init__(self) -> None:
        program = STUB.format(guard=str(GUARD), engine=ENGINE)
        env = {name: value for name, value in os.environ.items() if name != "VLLM_RPC_BASE_PATH"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self.process.stdout is not None
        engine, sockets, *self.names = self.process.stdout.readline().split()
        self.sockets = Path(sockets)
        self.engine = int(engine)
        wait_until(lambda: set(self.names) <= set(noted()))
        self.family = [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]
        self.guard = next(pid for pid in self.family if str(GUARD) in psutil.Process(pid).cmdline())

    @property
    def left(self) -> list[str]:
        return [name for name in self.names if (FOLDER / name).exists()] + [*map(str, self.sockets.glob("*"))]

    @property
    def all(self) -> list[str]:
        (socket,) = map(str, self.sockets.iterdir())
        return [*self.names, socket]

    def kill(self, *first: int) -> None:
        """End it by force, ``first`` before the stub itself, and wait until all have gone."""
        for pid in first:
            psutil.Process(pid).kill()
        self.process.kill()
        self.process.communicate()
        wait_until(lambda: all(is_gone(pid) for pid in self.family))


def noted() -> list[str]:
    """All names in the files of guards."""
    return [name for path in FOLDER.glob("vllm_custom_held_*") for name in path.read_text().split()]


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    if made.process.poll() is None:
        made.kill()
    for name in made.left:
        (FOLDER / name).unlink()  # or a path below another folder


def trackers(stub: Stub) -> list[int]:
    """Python's processes that would remove the memory."""
    return [pid for pid in stub.family if any("resource_tracker" in word for word in psutil.Process(pid).cmdline())]


def test_nothing_stays_of_a_killed_stub(stub: Stub) -> None:
    """The engine does not end by itself: the guard kills it."""
    assert stub.left == stub.all
    stub.kill()
    assert not stub.left
    assert not stub.sockets.exists()
    assert not set(stub.names) & set(noted())


def test_nothing_stays_where_pythons_own_process_was_killed_too(stub: Stub) -> None:
    """27 segments of 168 and 252 MB were once found after some hours of tests."""
    stub.kill(*trackers(stub))
    assert not stub.left


def test_nothing_stays_where_the_kernel_hangs_up(stub: Stub) -> None:
    """Linux does that to a group without a parent of which a process is stopped."""
    psutil.Process(stub.engine).suspend()
    stub.kill()
    assert not stub.left


def test_what_stays_when_all_were_killed_goes_at_the_next_start(stub: Stub) -> None:
    everyone = [*trackers(stub), stub.guard, stub.engine]
    for pid in everyone:
        psutil.Process(pid).suspend()
    stub.kill(*everyone)
    assert stub.left == stub.all
    following = Stub()
    wait_until(lambda: not stub.left)
    assert following.left == following.all, "those of the living stay"
    following.kill()


def test_what_is_in_use_or_has_another_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = SharedMemory(create=True, size=16)
    name = used.name.strip("/")
    other = FOLDER / f"another_{os.getpid()}"
    other.write_text("")
    record = FOLDER / f"vllm_custom_held_{os.getpid()}"
    try:
        record.write_text(f"{name}\n{other.name}\n../../{tmp_path}\npsm_1\n")
        assert leftovers.remove_abandoned() >= 1
        assert not record.exists()
        assert (FOLDER / name).exists()
        assert other.exists()
        assert tmp_path.exists()
        record.write_text(name)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        leftovers.remove_abandoned()
        assert record.exists(), "another user's is none of our business"
    finally:
        other.unlink()
        record.unlink(missing_ok=True)
        used.close()
        used.unlink()
