"""A worker gives up what decoding does not need, as far as the platform lets it, before it sees a client's bytes."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path

from vllm_custom.media.decoders import landlock, seccomp

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_DESCRIPTORS = 16
_libc = ctypes.CDLL(None, use_errno=True)


def confine(memory_bytes: int, parent: int) -> list[str]:
    """Restrict this process for good; it ends with ``parent``, which started it.

    Args:
        memory_bytes: how much its address space may grow from now on.
        parent: process id.

    Returns:
        What is in force, for the log.
    """
    _end_with(parent)
    page_bytes = resource.getpagesize()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * page_bytes
    for limit, value in (
        (resource.RLIMIT_AS, used + memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
    ):
        resource.setrlimit(limit, (value, value))
    _call("prctl", _PR_SET_DUMPABLE, 0)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1)
    version = landlock.restrict(_libc)
    filtered = seccomp.restrict(_libc)
    found = {"limits of memory and time": True, f"Landlock {version}": version > 0, "seccomp": filtered}
    return [name for name, there in found.items() if there]


def limit_cpu(seconds: int) -> None:
    """End this process when it has used so many more seconds of all cores together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))


def _end_with(parent: int) -> None:
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has gone before
        os._exit(1)


def _call(name: str, option: int, value: int) -> None:
    arguments = (ctypes.c_int(option), *(ctypes.c_ulong(word) for word in (value, 0, 0, 0)))
    if getattr(_libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name} {option}")
