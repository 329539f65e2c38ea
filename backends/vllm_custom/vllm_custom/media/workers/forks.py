"""Start and end worker processes, through a small process of its own that has loaded the decoders.

Nothing is forked from the model's process, which has threads and an engine, and a worker that had to be killed is
replaced in milliseconds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.spawn import get_executable
from pathlib import Path

from vllm_custom.errors import UnavailableError

_START_SECONDS = 60.0  # on a machine that is busy with loading a model
_STOP_SECONDS = 5.0
_MAX_HELLO = 1000  # bytes
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from vllm_custom.media.decoders.fork_server import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
# One thread for numpy, since a process with threads is not to be forked; no secrets of the model's environment.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_PASSED_ON = ("LD_LIBRARY_PATH", "PYTHONHOME", "PATH", "LANG")


class Worker:
    """One worker process, by the socket to it and the number that its fork server knows it by."""

    def __init__(self, number: int, channel: socket.socket, confinement: str) -> None:
        self.number = number
        self.channel = channel
        self.confinement = confinement


class ForkServer:
    """Starts workers. Safe from any thread; blocking where it says so."""

    def __init__(self, memory_bytes: int) -> None:
        """``memory_bytes``: how much each worker may take."""
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._workers: dict[int, Worker] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start_worker(self) -> Worker:
        """A new worker that is ready. Blocking: milliseconds, or a second where the fork server has to be started.

        Raises:
            UnavailableError: no worker can be started.
        """
        number = next(self._numbers)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._ask_for_fork(number, theirs)
            ours.settimeout(_START_SECONDS)
            confinement = ours.recv(_MAX_HELLO).decode()
            if not confinement:
                raise UnavailableError("no process that decodes media can be started; the server's log has the reason")
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise UnavailableError(f"no process that decodes media can be started: {error.strerror}") from error
            raise
        ours.setblocking(False)
        with self._lock:
            self._workers[number] = Worker(number, ours, confinement)
            return self._workers[number]

    def end(self, worker: Worker) -> None:
        """Kill a worker, whatever it does. Does not block."""
        worker.channel.close()
        with self._lock, contextlib.suppress(OSError):  # else the fork server has gone, and all workers with it
            self._workers.pop(worker.number, None)
            if self._control is not None:
                self._control.send(f"kill {worker.number}".encode())

    def close(self) -> None:
        """End the fork server and all workers. Blocking."""
        with self._lock:
            while self._workers:
                self._workers.popitem()[1].channel.close()
            self._stop()

    def _ask_for_fork(self, number: int, channel: socket.socket) -> None:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                try:
                    self._start()
                except BaseException:
                    self._stop()
                    raise
            assert self._control is not None
            socket.send_fds(self._control, [f"fork {number}".encode()], [channel.fileno()])

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = json.dumps([str(Path(path).absolute()) for path in sys.path])
        command = [os.fsdecode(get_executable()), "-I", "-S", "-c", _PROGRAM, paths]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(self._memory_bytes)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT | {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            )

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
