"""Landlock (Linux 5.13 and later): a process gives up the file system, TCP (6.7) and signals to others (6.12)."""

from __future__ import annotations

import ctypes
import os

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same on all architectures
_ASK_VERSION = 1
# include/uapi/linux/landlock.h: how many kinds of access to files each version knows, one bit each.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_LATEST_FILE_RIGHTS = 16
_NET_SINCE, _SCOPES_SINCE = 4, 6
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract Unix sockets, signals


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def restrict(libc: ctypes.CDLL) -> int:
    """Allow this process, which may gain no privileges any more, nothing of what this kernel's Landlock knows.

    What is open stays open.

    Returns:
        The version of Landlock; 0 where the kernel has none.
    """
    version = int(libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)))
    if version < 1:
        return 0
    rules = _Ruleset(
        files=(1 << _FILE_RIGHTS.get(version, _LATEST_FILE_RIGHTS)) - 1,
        net=_TCP if version >= _NET_SINCE else 0,
        scopes=_SCOPES if version >= _SCOPES_SINCE else 0,
    )
    size = 24 if version >= _SCOPES_SINCE else 16 if version >= _NET_SINCE else 8
    ruleset = int(
        libc.syscall(ctypes.c_long(_CREATE_RULESET), ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    )
    if ruleset < 0:
        return 0
    try:
        failed = libc.syscall(ctypes.c_long(_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint32(0))
        return 0 if failed else version
    finally:
        os.close(ruleset)
