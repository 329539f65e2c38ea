"""Which processes have a set of series in tritonserver's registry, so that only the last of them deletes it.

Triton counts who has a series for each process by itself (core, src/metric_family.cc): the first that deletes it frees
it, and what another one adds to it from then on is written to freed memory, which ends tritonserver sooner or later.
Instances of a model have the same series, and so have an instance that is unloaded and the one that replaces it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_TRITONS_MODULE = "triton_python_backend_utils"


class SeriesHolders:
    """The processes that have the series of one name. Each holds a lock on a file, which the kernel takes back."""

    def __init__(self, folder: Path, name: str) -> None:
        """
        Args:
            folder: of the server; it is made, and removed by the last that leaves.
            name: of the file in it.
        """
        self._folder = folder
        self._path = folder / name
        self._file: int | None = None

    @classmethod
    def of_server(cls, pb_utils: Any, name: str, labels: Mapping[str, str]) -> SeriesHolders | None:
        """Those of the tritonserver that is this process's parent; None where ``pb_utils`` is not Triton's module."""
        if getattr(pb_utils, "__name__", "") != _TRITONS_MODULE:
            return None
        server = os.getppid()
        folder = Path(tempfile.gettempdir(), f"vllm_custom_{os.geteuid()}_series_{server}_{_started_at(server)}")
        text = "\0".join([name, *(f"{key}\0{value}" for key, value in sorted(labels.items()))])
        return cls(folder, hashlib.sha256(text.encode()).hexdigest()[:16])

    def join(self) -> None:
        """This process is going to make series. Waits while another one deletes them."""
        with contextlib.suppress(OSError):  # without a lock it never deletes any
            _remove_deserted(self._folder)
            with self._folder_locked():
                self._file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def deleting(self, *, leave: bool = False) -> Iterator[bool]:
        """Whether no other process has the series; if so, none joins as long as the block lasts.

        ``leave``: this process has none after the block.
        """
        file = self._file
        if file is None:
            yield False
            return
        with self._folder_locked():
            alone = _is_alone(file)
            try:
                yield alone
            finally:
                if leave:
                    self._leave(file, alone=alone)
                else:
                    fcntl.flock(file, fcntl.LOCK_SH)

    def _leave(self, file: int, *, alone: bool) -> None:
        self._file = None
        if alone:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there are other names in it
                self._folder.rmdir()
        os.close(file)

    @contextlib.contextmanager
    def _folder_locked(self) -> Iterator[None]:
        """No process joins or leaves meanwhile."""
        while True:
            with contextlib.suppress(FileExistsError):
                self._folder.mkdir(mode=0o700)
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_uid != os.geteuid():
                    raise PermissionError(self._folder.name)
                with contextlib.suppress(FileNotFoundError):  # the last one has removed it; it is made again
                    if os.path.samestat(os.fstat(descriptor), self._folder.stat()):
                        yield
                        return
            finally:
                os.close(descriptor)


def keep_forever(things: Iterable[Any]) -> None:
    """Python deletes none of them, not even at its end."""
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _is_alone(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_deserted(folder: Path) -> None:
    """Remove what servers left that were killed with all their processes."""
    prefix, _, _ = folder.name.rpartition("_")[0].rpartition("_")
    for other in folder.parent.glob(f"{prefix}_*_*"):
        _, server, born = other.name.rsplit("_", 2)
        if server.isdigit() and _started_at(int(server)) != born:
            shutil.rmtree(other, ignore_errors=True)


def _started_at(process: int) -> str:
    """When it started, as a process id may be used again; empty once it has ended."""
    try:
        # The name stands in brackets and may itself hold brackets and spaces.
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
