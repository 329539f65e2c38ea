"""Folders of one folder exchanged: all of them or none, and nothing of it stays, whatever stops it in the middle.

New folders are made in a folder next to them, which takes the old ones as well; only renames concern what is in use. A
file in it says how far it is. The next installation undoes what was stopped, or clears away what was done with.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.installer.console import BuildError

_PREFIX = ".vllm_custom-"
_STATE = ".state.json"
_EARLIER = ".earlier"
# Of the folder's files and of what file systems need for them, in addition to their sizes.
_SPARE_BYTES = 4 * 1024**2


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process exchanges something in ``folder`` meanwhile; what goes wrong with its files is a BuildError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(descriptor, folder)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _explained(error, folder) from error


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BuildError(f"another installation is under way in {folder}", "wait for its end") from error
    except OSError as error:  # a file system without locks
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def is_unfinished(folder: Path) -> bool:
    """Whether an exchange was stopped in the middle."""
    return any(folder.glob(f"{_PREFIX}*"))


def recover(folder: Path) -> None:
    """Undo exchanges that were stopped, and clear away what they left."""
    for staging in sorted(folder.glob(f"{_PREFIX}*")):
        _settle(folder, staging)


def exchange(
    folder: Path,
    leaving: Sequence[str],
    arriving: Sequence[str],
    make: Callable[[Path], object] = lambda staging: None,
    mtime_ns: int | None = None,
) -> None:
    """Put new folders in the places of others.

    Args:
        folder: holds them.
        leaving: names of those that go.
        arriving: names of those that come.
        make: makes these in the folder that it is given.
        mtime_ns: the time of ``folder`` afterwards; None for now.
    """
    staging = folder / f"{_PREFIX}{uuid.uuid4().hex[:8]}"
    before = folder.stat().st_mtime_ns
    state = {"leaving": list(leaving), "arriving": list(arriving), "before": before, "after": mtime_ns}
    try:
        staging.mkdir()
        _note(staging, state, "making")
        make(staging)
        (staging / _EARLIER).mkdir()
        _note(staging, state, "exchanging")
        for name in leaving:
            if os.path.lexists(folder / name):
                (folder / name).rename(staging / _EARLIER / name)
        for name in arriving:
            (staging / name).rename(folder / name)
        _note(staging, state, "done")
    finally:
        if staging.exists():
            _settle(folder, staging)


def _settle(folder: Path, staging: Path) -> None:
    """Undo it unless it is done; then remove what it used. Can be stopped and repeated at any point."""
    state = _state(staging)
    if state["step"] == "exchanging":
        for name in state["arriving"]:
            if not os.path.lexists(staging / name) and os.path.lexists(folder / name):
                (folder / name).rename(staging / name)
        for name in state["leaving"]:
            if os.path.lexists(staging / _EARLIER / name):
                (staging / _EARLIER / name).rename(folder / name)
        _note(staging, state, "undone")
    for path in staging.iterdir():
        if path.name != _STATE:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (staging / _STATE).unlink(missing_ok=True)
    staging.rmdir()
    mtime_ns = state["after" if state["step"] == "done" else "before"]
    if mtime_ns is not None:
        os.utime(folder, ns=(folder.stat().st_atime_ns, mtime_ns))


def _note(staging: Path, state: dict[str, Any], step: str) -> None:
    """In one go: it is never half written."""
    state["step"] = step
    fresh = staging / f"{_STATE}.new"
    fresh.write_text(json.dumps(state))
    fresh.replace(staging / _STATE)


def _state(staging: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads((staging / _STATE).read_text())
    except FileNotFoundError:  # it had not begun, or is all but gone
        return {"step": "making", "before": None}
    return loaded


def problem_of(folder: Path, leaving: Sequence[str], sources: Sequence[Path]) -> BuildError | None:
    """Why ``folder`` cannot be changed by this user, or not hold ``sources`` as well; None where it can."""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return _explained(OSError(errno.EROFS, os.strerror(errno.EROFS)), folder)
    inside = [path for name in leaving for path in (folder / name).rglob("*")]
    for place in (folder, *(folder / name for name in leaving), *inside):
        if place.is_dir() and not place.is_symlink() and not os.access(place, os.W_OK | os.X_OK):
            return _explained(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), place)
    needed = sum(path.lstat().st_size for source in sources for path in source.rglob("*")) + _SPARE_BYTES
    if shutil.disk_usage(folder).free < needed:
        return _explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder)
    return None


_FIXES = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.EROFS: "mount it for writing, or build an image with the folder in it",
    errno.EACCES: "run this as a user who may change it, such as its owner",
    errno.EPERM: "run this as a user who may change it, such as its owner",
}


def _explained(error: OSError, folder: Path) -> BuildError:
    """What is wrong with which file, and what to do."""
    place, reason, number = error.filename or folder, error.strerror, error.errno
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # one reason for each file
        _, place, reason = error.args[0][0]
        number = next((known for known in _FIXES if f"[Errno {known}]" in str(reason)), None)
        reason = os.strerror(number) if number else str(reason)
    fix = _FIXES.get(number or 0, "check the folder and its disk, then give the same command again")
    return BuildError(f"{place}: {reason or error}", fix)
