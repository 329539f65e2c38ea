"""Processes of one server: who belongs to it, and how to be sure that none is left. Linux only, reads /proc."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """One line of /proc. Id and start time tell a process from every other; the rest changes while it lives."""

    pid: int
    parent: int = field(compare=False)
    group: int = field(compare=False)
    state: str = field(compare=False)
    start: int


def snapshot() -> dict[int, Process]:
    """Every process there is."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            process = read(int(entry.name))
            if process:
                found[process.pid] = process
    return found


def read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may itself hold brackets and spaces.
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[2]), fields[0], int(fields[19]))


def family(root: int, processes: dict[int, Process]) -> set[Process]:
    """Those below the root and those of its process group, without the root itself."""
    members = {root}
    grown = True
    while grown:
        more = {p.pid for p in processes.values() if p.parent in members or p.group == root} - members
        members |= more
        grown = bool(more)
    return {processes[pid] for pid in members if pid in processes and pid != root}


def is_alive(process: Process) -> bool:
    now = read(process.pid)
    return now is not None and (now.pid, now.start) == (process.pid, process.start) and now.state != "Z"


def end(processes: Iterable[Process], grace_seconds: float, *, wait_seconds: float = 0.0) -> list[int]:
    """Ask them to end, wait, and end by force what is left. Returns the ids of those that had to be asked.

    Orphans among them that have come to us and ended by themselves are reaped too: nothing stays behind as a zombie.

    Args:
        processes: whom it is about.
        grace_seconds: between asking and force.
        wait_seconds: before asking, for those that are about to end by themselves.
    """
    given = list(processes)
    asked = _alive_after(given, wait_seconds)
    for signal_number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        remaining = [process for process in asked if is_alive(process)]
        for process in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal_number)
        _alive_after(remaining, patience)
    for process in given:
        reap(process.pid)
    return [process.pid for process in asked]


def _alive_after(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Those that are still alive after so long; returns as soon as there are none."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return alive


def reap(pid: int) -> None:
    """Take the exit status of an orphan that came to us; others' children are none of our business."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def adopt_orphans() -> None:
    """Orphaned descendants become children of this process instead of init's, so that they can be found and reaped."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(*, own_group: bool = False, adopt: bool = False) -> Callable[[], None]:
    """What a child calls before it starts its program: SIGTERM when the thread that started it is gone.

    With `own_group` Ctrl-C does not reach it or its children. A session of its own would do that too, but Linux shares
    the processor out between sessions first (sched_autogroup): an engine that keeps every core busy has then been seen
    to keep a frontend in another session waiting for 0.2 s at a time. With `adopt` its orphans come to it, not
    to us.
    """
    parent = os.getpid()
    prctl, setpgid = _libc().prctl, os.setpgid  # looked up before the fork: afterwards only the call itself is safe

    def in_child() -> None:
        # A shell has what it starts in the background ignore SIGINT, which is how tests are told to stop.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if own_group:
            setpgid(0, 0)
        if adopt:
            prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return in_child


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
