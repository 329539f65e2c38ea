"""A seccomp filter that leaves a process the system calls of computing and of answering, and no others.

What is not listed fails with ENOSYS, from which libraries fall back; the process goes on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | errno.ENOSYS
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
# Offsets in struct seccomp_data: number, architecture, and the lower halves of the first two arguments.
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_CLONE_THREAD = 0x00010000
_F_DUPFD_CLOEXEC = 1030
_PR_SET_NAME = 15  # threads of FFmpeg's libraries give themselves names

_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Name to its number on x86_64 and aarch64 (None: there is none).
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "futex": (202, 98),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "madvise": (28, 233),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "brk": (12, 214),
    "read": (0, 63),
    "pread64": (17, 67),
    "write": (1, 64),
    "pwrite64": (18, 68),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "close": (3, 57),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "lseek": (8, 62),
    "poll": (7, None),
    "ppoll": (271, 73),
    "dup2": (33, None),
    "dup3": (292, 24),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
}
_CLONE, _PRCTL, _PRLIMIT, _TGKILL, _FCNTL = (56, 220), (157, 167), (302, 261), (234, 131), (72, 25)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def restrict(libc: ctypes.CDLL) -> bool:
    """Install the filter for this process, which may gain no privileges any more; False where that cannot be."""
    machine = platform.machine()
    if machine not in _AUDIT_ARCHITECTURES:
        return False
    code = _program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    return not libc.prctl(
        ctypes.c_int(_PR_SET_SECCOMP), ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program), ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )  # fmt: skip


def _program(machine: str) -> bytes:
    """The filter, as the kernel takes it: structs of operation, jump if true, jump if false, operand."""
    column = list(_AUDIT_ARCHITECTURES).index(machine)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT_ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _FAIL),
        (_LOAD, 0, 0, _NUMBER),  # x32's have a bit more, and so equal none
    ]
    for numbers in _CALLS.values():
        number = numbers[column]
        if number is not None:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for numbers, argument, test, operand in (
        (_CLONE, _FIRST, _ANY_BIT, _CLONE_THREAD),  # threads, and no processes
        (_PRCTL, _FIRST, _EQUAL, _PR_SET_NAME),
        (_PRLIMIT, _FIRST, _EQUAL, 0),  # its own
        (_TGKILL, _FIRST, _EQUAL, os.getpid()),  # abort()
        (_FCNTL, _SECOND, _EQUAL, _F_DUPFD_CLOEXEC),  # mmap's; others can have signals sent
    ):
        steps += [
            (_EQUAL, 0, 4, numbers[column]),
            (_LOAD, 0, 0, argument),
            (test, 0, 1, operand),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _FAIL),
        ]
    steps.append((_RETURN, 0, 0, _FAIL))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
