"""The folder in which several processes count together; one that was left behind goes at the next start.

The process above the workers holds a lock on it (``flock``), and so do the workers, which may outlive it. The kernel
takes the lock back however they end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "vllm_custom_worker_metrics_"
# While it is made, a folder has no lock yet: it must not look like one that was left behind.
_PREFIX_WHILE_MADE = "vllm_custom_new_"


@dataclass(frozen=True)
class MetricsFolder:
    """
    Attributes:
        path: of this user alone.
        descriptor: open in whatever process uses it.
    """

    path: Path
    descriptor: int


@contextlib.contextmanager
def metrics_folder() -> Iterator[MetricsFolder]:
    """A new one, which is removed at the end; so are those of this user whose processes were killed."""
    _remove_abandoned()
    made = Path(tempfile.mkdtemp(prefix=_PREFIX_WHILE_MADE))
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    _lock(descriptor)
    path = made.rename(made.with_name(made.name.replace(_PREFIX_WHILE_MADE, _PREFIX)))
    try:
        yield MetricsFolder(path, descriptor)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _remove_abandoned() -> None:
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # gone meanwhile, or no folder
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid() and _lock(descriptor):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether it is locked now; not where another process holds it, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
