"""Memory that passes between processes as a file without a name: nothing is left behind, whichever process is killed.

It is no file in /dev/shm, which containers keep small.
"""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np
import numpy.typing as npt

# Of <linux/fcntl.h>; Python names them on some platforms only.
_ADD_SEALS = 1033
_SEAL, _SHRINK, _GROW, _WRITE = 1, 2, 4, 8


def sealed_copy(data: bytes | bytearray) -> int:
    """A descriptor of memory that holds ``data`` and that no process can change any more. Blocking: it is copied."""
    descriptor = os.memfd_create("media", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while len(view):
            view = view[os.write(descriptor, view) :]
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEAL | _SHRINK | _GROW | _WRITE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def new_memory(size: int) -> int:
    """A descriptor of ``size`` bytes of memory whose size cannot be changed; pages that are not used take none."""
    descriptor = os.memfd_create("media", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, _ADD_SEALS, _SHRINK | _GROW)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def taken_over(descriptor: int, size: int) -> npt.NDArray[np.uint8]:
    """The first ``size`` bytes as an array without a copy, which no other process can write to any more.

    What is written to the array is seen by this process alone.

    Raises:
        OSError: another process can still write to the memory.
    """
    fcntl.fcntl(descriptor, _ADD_SEALS, _WRITE | _SEAL)
    return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY), np.uint8)
