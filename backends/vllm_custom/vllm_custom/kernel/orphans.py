"""The engine's processes must not outlive the stub that they work for, nor the stub tritonserver.

vLLM's processes do not notice that the stub has gone without finalizing: because Triton killed it when it gave no sign
of life for a second, or because Linux did for want of memory. They would keep the device's memory for good. Nor can
the stub be relied on to end with a tritonserver that was killed: threads that do not end may keep it.
So the stub leads a process group of its own, into which everything that it starts is born, and one small process of
that group ends the group once the stub has gone or has lost its parent, and removes the shared memory and the temporary
folders that it leaves.

Run as a program, with the process ids of the stub and of its parent as arguments, this file is that small process.
With the argument ``end`` it has a tritonserver end that goes on without the stub and does not know it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any, NamedTuple

_POLL_SECONDS = 0.5
# For those that are about to end by themselves, as they are when the stub has finalized.
_GRACE_SECONDS = 3.0
# A stub that tritonserver itself has ended, or waits for, does not stay a zombie for so long.
_LOST_SECONDS = 2.0
# Where vLLM makes sockets, each with a name of 36 characters; an address has 107.
SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
SOCKETS_CHARACTERS = 107 - 37
_END = "end"


def guard_against_orphans(warn: Callable[[str], None], *, end_server: bool = False) -> None:
    """Have everything ended that this process starts from now on, as soon as it has gone itself or lost its parent.

    Nothing happens where it leads a group already: it is guarded, by a subclass for one. Call it first of all: a
    parent that has gone before is not missed.

    Args:
        warn: is told when there can be no guard; the model works without one.
        end_server: have tritonserver end, as on SIGTERM, where this process was killed and it has not noticed.
    """
    if os.getpgrp() == os.getpid():
        return
    try:
        os.setpgid(0, 0)
        command = [os.fsdecode(get_executable()), "-I", "-S", __file__, str(os.getpid()), str(os.getppid())]
        command += [_END] if end_server else []
        subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        warn(f"nothing will end the engine's processes if this one is killed: {error}")
    else:
        _have_sockets_removed()


def _have_sockets_removed() -> None:
    """vLLM does not remove its sockets, however it ends: the guard does, with the folder that is this process's."""
    if SOCKETS_VARIABLE in os.environ:
        return
    owned_folders = _sibling("owned_folders")
    with contextlib.suppress(OSError):  # they are in the temporary folder then, as with vLLM alone
        os.environ[SOCKETS_VARIABLE] = str(owned_folders.OwnedFolder(owned_folders.SOCKETS, SOCKETS_CHARACTERS).path)


class _Process(NamedTuple):
    """What /proc says of a process."""

    state: str
    parent: int
    group: int

    @classmethod
    def read(cls, folder: Path) -> _Process:
        """Of the process in ``folder`` of /proc. Raises OSError where it has gone."""
        # The name stands in brackets and may itself hold brackets and spaces.
        state, parent, group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
        return cls(state, int(parent), int(group))


def _is_child(stub: int, server: int) -> bool:
    """Whether the stub still is the child of the server; init or another process adopts it when that has died."""
    try:
        return _Process.read(Path(f"/proc/{stub}")).parent == server
    except OSError:
        return False


def _is_lost(stub: int, server: int) -> bool:
    """Whether the stub has ended and the server does not know it."""
    deadline = time.monotonic() + _LOST_SECONDS
    while time.monotonic() < deadline:
        try:
            process = _Process.read(Path(f"/proc/{stub}"))
        except OSError:
            return False
        if (process.state, process.parent) != ("Z", server):
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _sibling(name: str) -> Any:
    """A module of this folder, loaded by its path: in this program the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    # Linux hangs up on a group that has lost its parent while one of its processes is stopped.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    leftovers, owned_folders = _sibling("leftovers"), _sibling("owned_folders")
    stub, server = (int(argument) for argument in sys.argv[1:3])
    leftovers.remove_abandoned()
    owned_folders.remove_abandoned()
    held = leftovers.Held(stub)
    while os.getppid() == stub and _is_child(stub, server):
        held.look()
        time.sleep(_POLL_SECONDS)
    if _END in sys.argv[3:] and _is_lost(stub, server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)
    leftovers.end_others(stub, _GRACE_SECONDS)
    held.remove()
    owned_folders.remove_abandoned()
    os.killpg(stub, signal.SIGKILL)


if __name__ == "__main__":
    main()
