"""The process above an engine's host: whatever ends the host, nothing of it outlives it.

It starts the host in a process group of its own, into which vLLM's processes are born. Once the host is no more, it
removes the engine's folder, ends what is left of the group, and removes the shared memory that it leaves. Run as a
program by its path; standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 0.5
_MARK = "mark"
# For those that are about to end by themselves, and for Python's resource tracker, which removes shared memory.
_GRACE_SECONDS = 3.0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process makes or removes something in ``folder`` meanwhile.

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


def _leftovers() -> Any:
    """The kernel's module, which is in no package here."""
    path = Path(__file__).parents[2] / "kernel/leftovers.py"
    spec = importlib.util.spec_from_file_location("leftovers", path)
    if spec is None or spec.loader is None:
        raise ImportError("leftovers")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    folder, known_as, descriptor, *command = sys.argv[1:]
    host = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[int(descriptor)])
    os.close(int(descriptor))  # or fronts could still connect to a host that has gone
    # Linux hangs up on a group that has lost its parent while one of its processes is stopped.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    leftovers = _leftovers()
    leftovers.remove_abandoned()
    held = leftovers.Held(os.getpgrp())
    while host.poll() is None:
        held.look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            host.wait(_LOOK_SECONDS)
    remove(Path(folder), known_as)
    if os.getpgrp() == os.getpid():
        leftovers.end_others(os.getpid(), _GRACE_SECONDS)
        held.remove()
        os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
