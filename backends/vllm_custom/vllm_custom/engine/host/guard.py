"""The process above an engine's host: whatever ends the host, nothing of it outlives it.

It starts the host in a process group of its own, into which vLLM's processes are born. Once the host is no more, it
removes the engine's folder and ends what is left of the group. Run as a program by its path; standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_MARK = "mark"
_POLL_SECONDS = 0.2
# For those that are about to end by themselves, and for Python's resource tracker, which removes shared memory.
_GRACE_SECONDS = 3.0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else makes or removes something in ``folder`` meanwhile.

    Raises:
        OSError: there is no such folder any more.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise FileNotFoundError(folder.name)
        yield
    finally:
        os.close(descriptor)


def mark(folder: Path) -> str:
    """Give a folder a word that tells it from a later one of the same path, which may have the same inode.

    Raises:
        OSError: there is no such folder.
    """
    word = os.urandom(16).hex()
    (folder / _MARK).write_text(word)
    return word


def remove(folder: Path, known_as: str) -> None:
    """Remove the folder of an engine, if it is still that one, and the folder above where it is empty then."""
    with contextlib.suppress(OSError), locked(folder.parent):
        if (folder / _MARK).read_text() == known_as:
            shutil.rmtree(folder, ignore_errors=True)
        folder.parent.rmdir()


def _others_live() -> bool:
    """Whether any process of this group but this one is alive."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has gone meanwhile
            # The name stands in brackets and may itself hold brackets and spaces.
            state, _, group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(group) == os.getpid() and state != "Z" and stat.parent.name != str(os.getpid()):
                return True
    return False


def main() -> None:
    folder, known_as, descriptor, *command = sys.argv[1:]
    host = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[int(descriptor)])
    os.close(int(descriptor))  # or fronts could still connect to a host that has gone
    host.wait()
    remove(Path(folder), known_as)
    deadline = time.monotonic() + _GRACE_SECONDS
    while _others_live() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
