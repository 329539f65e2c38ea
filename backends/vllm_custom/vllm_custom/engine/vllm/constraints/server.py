"""The process that compiles constraints, so that none of them can hold up, crash or fill the model's own.

It loads the compilers once and then does nothing but fork, for each constraint a child that the kernel ends when the
asker closes its connection, when its time is over or when it takes too much memory. The process itself ends when the
one that started it closes the control connection, or has gone. It must stay single-threaded: a fork copies one thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

from vllm_custom.engine.vllm.constraints.grammars import GrammarCompilers, import_compilers
from vllm_custom.engine.vllm.constraints.refusals import explain
from vllm_custom.engine.vllm.older import find
from vllm_custom.runtime import tuning

READY = b"r"
JOB = b"j"
STARTED = b"s"
LENGTH = struct.Struct("!Q")
# Forks of a process with more threads would be unsafe.
SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_NICENESS = 5
# The asker ends children that are late; this ends those that it has forgotten.
_GRACE_SECONDS = 5.0


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """The next ``count`` bytes.

    Raises:
        EOFError: the other end was closed before.
    """
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(1 << 20, count - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def read_message(connection: socket.socket) -> bytes:
    """A message with its length before it.

    Raises:
        EOFError: the other end was closed before.
    """
    (length,) = LENGTH.unpack(read_exactly(connection, LENGTH.size))
    return read_exactly(connection, length)


def serve(control: socket.socket) -> None:
    """Load what the first message says, then fork for each connection that comes, until there are no more."""
    with tuning.without_collections():
        import_compilers()
        compilers = GrammarCompilers(read_message(control))
        # Now, and not in each child: it imports the better part of what a check needs.
        compilers.warm_up()
        tuning.freeze_gc_heap()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets children by itself
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, len(JOB), 1)
        if not message:
            return
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # no process to be had: the asker sees its connection closed
                if os.fork() == 0:
                    control.close()
                    _answer(socket.socket(fileno=descriptor), compilers)
            os.close(descriptor)


def serve_in_copy(control: socket.socket) -> None:
    """As the program does, in a copy of the model's process: nothing of that is used or kept open."""
    import torch

    find("set_process_title", "vllm.utils.system_utils", "vllm.utils")("Constraints")
    for number in (signal.SIGTERM, signal.SIGINT):  # Triton's stub does nothing on them
        signal.signal(number, signal.SIG_DFL)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor not in (0, 1, 2, control.fileno()):
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)
    gc.freeze()  # a collection would write to all memory that the two share
    gc.enable()
    os.environ.update(SINGLE_THREADED)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        serve(control)


def _answer(connection: socket.socket, compilers: GrammarCompilers) -> NoReturn:
    """Compile what ``connection`` asks for, tell it the outcome, end. Runs in the child."""
    try:
        connection.sendall(STARTED)
        job = json.loads(read_message(connection))
        _limit(connection, job["seconds"] + _GRACE_SECONDS, job["memory"])
        answer = json.dumps(_outcome(compilers, job["kind"], job["value"], job["options"]))
        connection.sendall(answer.encode())
    finally:
        os._exit(0)


def _outcome(compilers: GrammarCompilers, kind: str, value: Any, options: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"verdict": dataclasses.asdict(compilers.compile(kind, value, options))}
    except Exception as error:
        # Told like a crash, which the same want of memory can end in as well.
        if isinstance(error, MemoryError) or "bad_alloc" in str(error):
            os._exit(1)
        return {"reason": explain(kind, value, error)}


def _limit(connection: socket.socket, seconds: float, memory: int) -> None:
    """Everything that ends this process by a signal, which works while a compiler holds the interpreter."""
    in_use = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_DATA, in_use + memory),
        (resource.RLIMIT_CPU, math.ceil(seconds * (os.cpu_count() or 1)) + 1),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    os.nice(_NICENESS)
    silence = os.open(os.devnull, os.O_WRONLY)  # compilers write what clients sent to stderr
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    hung_up = select.poll()
    hung_up.register(connection, select.POLLHUP)
    if hung_up.poll(0):  # before the signal was asked for
        os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(EOFError), socket.socket(fileno=int(sys.argv[1])) as inherited:
        serve(inherited)
