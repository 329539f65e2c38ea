"""Several processes that share one port: started, watched, started again where one ends, and ended together.

Each process has a listening socket of its own on the port (SO_REUSEPORT), between which Linux spreads the connections,
so that one that has not begun to listen, or has been killed, gets none. What they count is in one folder.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from vllm_custom_frontend.metrics import FOLDER_VARIABLE
from vllm_custom_frontend.metrics_folder import metrics_folder
from vllm_custom_frontend.options import ServerOptions

_log = logging.getLogger("vllm_custom_frontend")
# Tells a worker that it is one: the end of a pipe that closes with the process above it.
_VARIABLE = "VLLM_CUSTOM_WORKER_PIPE"
_POLL_SECONDS = 0.1
# One that ends sooner is not started again at once, and not forever.
_SHORT_LIFE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 10.0
_MOST_SHORT_LIVES = 5
_GRACE_SECONDS = 10.0
_forget: Any = mark_process_dead  # it has no types


def is_worker() -> bool:
    """Whether this process is one of several."""
    return _VARIABLE in os.environ


def end_with_parent() -> None:
    """Have this worker drain and end where the process above it has gone."""
    descriptor = int(os.environ[_VARIABLE])

    def wait() -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="vllm_custom_parent", daemon=True).start()


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket on the port that the workers share; not yet listening. Raises OSError where that cannot be."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


@dataclass
class _Place:
    """Where one worker after the other runs."""

    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    short_lives: int = 0
    begin_at: float = field(default_factory=time.monotonic)


class Workers:
    """The process above the workers, which serves nothing itself."""

    def __init__(self, module: str, arguments: Sequence[str], options: ServerOptions) -> None:
        """
        Args:
            module: what ``python -m`` runs in each.
            arguments: of the command line; the port is added.
            options: what they say.

        Raises:
            OSError: the port is taken.
        """
        # No other process gets the port as long as this one lives, and port 0 is one that is free.
        self._reserved = bound_socket(options.host, options.port)
        self.port: int = self._reserved.getsockname()[1]
        self._command = [sys.executable, "-m", module, *arguments, f"--port={self.port}"]
        self._drain_seconds = options.drain_seconds + options.shutdown_delay_seconds
        self._places = [_Place() for _ in range(options.workers)]
        self._stopping = False
        self._failed = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. The exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        _log.info("%d workers on port %d", len(self._places), self.port)
        with metrics_folder() as folder:
            read_end, write_end = os.pipe()
            environment = {**os.environ, FOLDER_VARIABLE: str(folder.path), _VARIABLE: str(read_end)}
            try:
                while not self._stopping:
                    for place in self._places:
                        self._look_at(place, environment, [read_end, folder.descriptor])
                    time.sleep(_POLL_SECONDS)
                self._end_all()
            finally:
                os.close(read_end)
                os.close(write_end)
                self._reserved.close()
        return int(self._failed)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _look_at(self, place: _Place, environment: dict[str, str], descriptors: Sequence[int]) -> None:
        if place.process is not None:
            status = place.process.poll()
            if status is None:
                return
            self._note_end(place, place.process.pid, status, environment[FOLDER_VARIABLE])
        if not self._stopping and time.monotonic() >= place.begin_at:
            place.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, env=environment, pass_fds=descriptors
            )
            place.began = time.monotonic()

    def _note_end(self, place: _Place, pid: int, status: int, folder: str) -> None:
        _forget(pid, folder)
        place.process = None
        lived = time.monotonic() - place.began
        place.short_lives = place.short_lives + 1 if lived < _SHORT_LIFE_SECONDS else 0
        pause = min(2.0 ** (place.short_lives - 1), _LONGEST_PAUSE_SECONDS) if place.short_lives else 0.0
        place.begin_at = time.monotonic() + pause
        _log.error("a worker (process %d) has ended with status %d; another one takes its place", pid, status)
        if place.short_lives >= _MOST_SHORT_LIVES:
            _log.error("workers end as soon as they begin; stopping")
            self._stopping = self._failed = True

    def _end_all(self) -> None:
        """Have them drain, all at once."""
        running = [place.process for place in self._places if place.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._drain_seconds + _GRACE_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
