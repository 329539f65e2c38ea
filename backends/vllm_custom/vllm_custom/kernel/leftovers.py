"""Shared memory of processes that were killed: whose it was is noted while they live, and it is removed after them.

Python's multiprocessing has a process that removes its segments (psm_*) and semaphores (sem.mp-*) once their users have
gone, and tritonserver removes the region of each stub. Where these are killed with them they stay, and their names do
not say whose they were. So a guard notes what its processes use, in a file next to it on which it holds a lock
(``flock``). The kernel takes the lock back however the guard ends, also in another container with the same memory, and
the next guard of this user removes what it names.

The guards are programs that load this file by its path: standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux has POSIX shared memory
# Of multiprocessing, and of tritonserver: as `build.py serve` has it name them, and as it does by itself.
_NAME = re.compile(
    r"psm_[0-9a-f]{8}|sem\.mp-\w{8}|(vllm_custom_[0-9a-f]{12}|triton_\w+_backend_shm_region)_[0-9a-f-]{36}"
)
# A line of /proc/PID/maps has a file's number before its path. The path is that at the time when it was opened, and a
# semaphore has another one then.
_MAPPED = re.compile(rf" (\d+) +{_FOLDER}/", re.MULTILINE)
_PREFIX = "vllm_custom_held_"
# While it is made, a file has no lock yet: it must not look like one that was left behind.
_PREFIX_WHILE_MADE = "vllm_custom_new_held_"
_TRACKER = b"multiprocessing.resource_tracker"
_POLL_SECONDS = 0.2
# For Python's own process to remove what the others had.
_TRACKER_SECONDS = 2.0


def others(group: int) -> list[int]:
    """The living processes of a group, without this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has gone meanwhile
            # The name stands in brackets and may itself hold brackets and spaces.
            state, _, its_group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z" and folder.name != str(os.getpid()):
                found.append(int(folder.name))
    return found


def end_others(group: int, grace_seconds: float) -> None:
    """End the group but for this process: those that stay are killed, and those last that remove shared memory."""
    _wait(group, grace_seconds)
    for process in others(group):
        with contextlib.suppress(OSError):
            if _TRACKER not in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)
    _wait(group, _TRACKER_SECONDS)


def _wait(group: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while others(group) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


class Held:
    """What the processes of a group use of shared memory. Never raises."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._seen: dict[str, int] = {}
        self._again = False
        self._names: set[str] = set()
        self._file = -1
        self._path = _FOLDER

    def look(self) -> None:
        """Note what is new. To be called again and again; it is cheap where nothing is."""
        present = _present()
        if present == self._seen and not self._again:
            return
        # What has just been made may be used a moment later.
        self._again, self._seen = present != self._seen, present
        held = (self._names | _used_by(others(self._group), present)) & present.keys()
        if held != self._names:
            self._names = held
            with contextlib.suppress(OSError):
                self._write()

    def remove(self) -> None:
        """Remove what is left of it, once the processes have gone."""
        _remove(self._names)
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def _write(self) -> None:
        if self._file < 0:
            self._file, made = tempfile.mkstemp(prefix=_PREFIX_WHILE_MADE, dir=_FOLDER)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path = Path(made).rename(made.replace(_PREFIX_WHILE_MADE, _PREFIX))
        text = "".join(f"{name}\n" for name in sorted(self._names)).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))


def remove_abandoned() -> int:
    """Remove what guards of this user have noted that are gone. Returns how many there were; never raises."""
    count = 0
    with contextlib.suppress(OSError):
        for path in _FOLDER.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # gone meanwhile, or another's
                count += _remove_if_abandoned(path)
    return count


def _remove_if_abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        state = os.fstat(descriptor)
        if state.st_uid != os.geteuid() or not stat.S_ISREG(state.st_mode):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(state, path.lstat()):
            return False
        _remove(file.read().split())
        path.unlink()
        return True


def _remove(names: Iterable[str]) -> None:
    """Remove those that are of this user and that no process uses."""
    present = _present()
    wanted = {name: present[name] for name in names if name in present}
    if not wanted:
        return
    everyone = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    for name in wanted.keys() - _used_by(everyone, wanted):
        with contextlib.suppress(OSError):  # gone meanwhile
            if (_FOLDER / name).lstat().st_uid == os.geteuid():
                (_FOLDER / name).unlink()


def _present() -> dict[str, int]:
    """Names of the files that are looked after, and their numbers."""
    with contextlib.suppress(OSError), os.scandir(_FOLDER) as entries:
        return {entry.name: entry.inode() for entry in entries if _NAME.fullmatch(entry.name)}
    return {}


def _used_by(processes: Iterable[int], names: Mapping[str, int]) -> set[str]:
    """Which of ``names`` they use."""
    numbers: set[int] = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has gone, or is another user's
            maps = Path(f"/proc/{process}/maps").read_text(errors="replace")
            numbers.update(map(int, _MAPPED.findall(maps)))
    return {name for name, number in names.items() if number in numbers}
