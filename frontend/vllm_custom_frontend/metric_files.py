"""Files of metrics without holes: a disk that fills up may cost what is counted, and never a process.

prometheus_client maps files into memory, and leaves it to the system to find space for what is written there. Where
there is none, the write ends the process (SIGBUS), and so do those of the one that takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_log = logging.getLogger("vllm_custom_frontend")
# As many as prometheus_client begins with: some thousand series of one type.
_BYTES = 1 << 20
_library: Any = values
_Mapped: Any = MmapedDict  # it has no types


class WholeFile(_Mapped):  # type: ignore[misc]
    """A file that has all its space from the beginning; where there is none, memory that no other process reads."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        super().__init__(filename if read_mode else _allocated(filename), read_mode)


def install() -> None:
    """Let the values that are made from now on be in such files."""
    _library.MmapedDict = WholeFile


def _allocated(filename: str) -> str:
    try:
        descriptor = os.open(filename, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, _BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        _log.warning("no space for a file of metrics: what this process counts is not shown (%s)", error.strerror)
        with contextlib.suppress(OSError):
            Path(filename).unlink()
        return f"/proc/self/fd/{os.memfd_create('metrics')}"
    return filename
