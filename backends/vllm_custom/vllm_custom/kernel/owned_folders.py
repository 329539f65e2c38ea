"""Temporary folders of one process. Where their owner was killed its guard removes them, or the next start.

The owner of a folder holds a lock on it (``flock``), which the kernel takes back however the owner ends. That tells
more than a process id: ids come again, and differ between containers that share a folder.

The guards are programs that load this file by its path: standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

ADAPTERS, SOCKETS = "lora", "sockets"
_PREFIXES = tuple(f"vllm_custom_{kind}_" for kind in (ADAPTERS, SOCKETS))
# While it is made, a folder has no lock yet: it must not look like one that was left behind.
_PREFIX_WHILE_MADE = "vllm_custom_new_"
_SHORT = "/tmp"  # noqa: S108 - of this user alone, as mkdtemp makes it


class OwnedFolder:
    """A new folder under the temporary one, for this user only, until :meth:`close` or the end of the process."""

    def __init__(self, kind: str = ADAPTERS, longest: int | None = None) -> None:
        """
        Args:
            kind: what it is for, one of those above.
            longest: characters of its path; where the temporary folder's is too long it is in /tmp.

        Raises:
            OSError: it cannot be made.
        """
        final = f"vllm_custom_{kind}_"
        made = Path(tempfile.mkdtemp(prefix=_PREFIX_WHILE_MADE))
        if longest is not None and len(str(made)) + len(final) - len(_PREFIX_WHILE_MADE) > longest:
            made.rmdir()
            made = Path(tempfile.mkdtemp(prefix=_PREFIX_WHILE_MADE, dir=_SHORT))
        self._descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        _lock(self._descriptor)
        self.path = made.rename(made.with_name(made.name.replace(_PREFIX_WHILE_MADE, final)))

    def close(self) -> None:
        """Remove it with what it holds. Blocks; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(descriptor)


def remove_abandoned() -> int:
    """Remove folders of this user whose owner is gone, and say how many there were. Blocks; never raises."""
    removed = 0
    for folder in {tempfile.gettempdir(), _SHORT}:
        with contextlib.suppress(OSError):
            for path in Path(folder).glob("vllm_custom_*"):
                if path.name.startswith(_PREFIXES):
                    with contextlib.suppress(OSError):  # gone meanwhile, or no folder
                        removed += _remove_if_abandoned(path)
    return removed


def _remove_if_abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        ours = os.fstat(descriptor).st_uid == os.geteuid()
        if not ours or not _lock(descriptor) or not os.path.samestat(os.fstat(descriptor), path.lstat()):
            return False
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether it is locked now; not where another process holds it, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
