"""The engine's processes must not outlive the stub that they work for.

vLLM's processes do not notice that the stub has gone without finalizing: because Triton killed it when it gave no sign
of life for a second, because the kernel did for want of memory, or because tritonserver itself had died. They would
keep the device's memory for good. So the stub leads a process group of its own, into which everything that it starts
is born, and one small process of that group ends the group once the stub is no more.

Run as a program, with the stub's process id as its argument, this file is that small process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.spawn import get_executable
from pathlib import Path

_POLL_SECONDS = 0.5
# For those that are about to end by themselves, as they are when the stub has finalized.
_GRACE_SECONDS = 3.0


def guard_against_orphans(warn: Callable[[str], None]) -> None:
    """Have everything ended that this process starts from now on, as soon as it has gone itself.

    Nothing happens where it leads a group already: it is guarded, by a subclass for one. Call it before the engine
    is started. ``warn`` is told when there can be no guard; the model works without one.
    """
    if os.getpgrp() == os.getpid():
        return
    try:
        os.setpgid(0, 0)
        command = [os.fsdecode(get_executable()), "-I", "-S", __file__, str(os.getpid())]
        subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        warn(f"nothing will end the engine's processes if this one is killed: {error}")


def _others(group: int) -> bool:
    """Whether any process of the group but this one is alive."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has gone meanwhile
            # The name stands in brackets and may itself hold brackets and spaces.
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z" and stat.parent.name != str(os.getpid()):
                return True
    return False


def main() -> None:
    stub = int(sys.argv[1])
    while os.getppid() == stub:
        time.sleep(_POLL_SECONDS)
    deadline = time.monotonic() + _GRACE_SECONDS
    while _others(stub) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    os.killpg(stub, signal.SIGKILL)


if __name__ == "__main__":
    main()
