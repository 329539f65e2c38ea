"""Waiting for what other processes do, and what they hold."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

_SHARED_MEMORY = "/dev/shm/"


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def held_by(processes: Iterable[psutil.Process]) -> set[Path]:
    """Shared memory that they use, and the sockets that they have in the file system."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has gone
            found |= {one.path for one in process.memory_maps() if one.path.startswith(_SHARED_MEMORY)}
            found |= {one.laddr for one in process.net_connections("unix") if one.laddr.startswith("/")}
    return {Path(path) for path in found if Path(path).exists()}
