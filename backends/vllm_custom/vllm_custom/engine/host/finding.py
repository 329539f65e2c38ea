"""Find the host of an engine, or start it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.spawn import get_executable
from pathlib import Path

from vllm_custom.engine.host import board, folders, guard
from vllm_custom.engine.host.connection import Connection
from vllm_custom.engine.host.messages import MakeWay, encode
from vllm_custom.errors import ConfigError

_BACKLOG = 64
# A host that ends waits for its engine to end.
_PATIENCE_SECONDS = 60.0
# Half of it is for requests under way.
_MAKE_WAY_SECONDS = 60.0
_POLL_SECONDS = 0.1


def join(
    name: folders.EngineName,
    front: str,
    program: str,
    grace_seconds: int,
    generation: int = 0,
    stall_seconds: int = 0,
) -> Connection:
    """Connect a front to the host of its engine, which is started where there is none.

    Args:
        name: of the engine.
        front: Triton's name of the instance.
        program: the module that is the host.
        grace_seconds: how long the engine stays when its last front has left.
        generation: the same for all fronts that Triton has started together.
        stall_seconds: an engine that stands still for so long is ended; 0 for never.

    Raises:
        ConfigError: there is no host to be had.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        problem = "ends again and again; the server's log says why"
        try:
            with folders.locked() as parent:
                folder = parent / name.folder
                found = _connect(folder)
                connected = found or _start(folder, name, program, grace_seconds, stall_seconds)
        except BlockingIOError:
            problem = "takes no connections"
        except OSError as error:
            raise ConfigError(
                f"the process for the engine that all instances share cannot be started: {error.strerror} "
                "(its sockets are in the temporary folder, TMPDIR)"
            ) from error
        else:
            with contextlib.suppress(OSError):  # it has just ended
                connection = Connection(connected, folder, front, generation)
                connection.started = found is None
                return connection
            connected.close()
        if time.monotonic() > deadline:
            raise ConfigError(f"the host of the engine {problem}")
        time.sleep(_POLL_SECONDS)


def join_as_guest(folder: Path, name: str) -> Connection:
    """Connect a guest to the host of an engine that others have started.

    Args:
        folder: of the engine.
        name: of the guest.

    Raises:
        OSError: there is no such host any more.
    """
    connected = _connect(folder)
    if connected is None:
        raise FileNotFoundError(folder.name)
    return Connection(connected, folder, name, guest=True)


def wait_until_gone(folder: Path, seconds: float) -> None:
    """Wait for the end of a host that no front uses any more, and of its engine."""
    deadline = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def end_others(name: folders.EngineName) -> None:
    """End engines that the same model and version have on the same devices, but which were started from other files.

    Raises:
        ConfigError: one of them does not end.
    """
    with contextlib.suppress(OSError), folders.locked() as parent:
        _remove_deserted(parent)
    for folder in folders.others(name):
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # it has just ended, or is busy and asked in vain
                if (connected := _connect(folder)) is not None:
                    stack.enter_context(connected).sendall(encode(MakeWay()))
            wait_until_gone(folder, _MAKE_WAY_SECONDS)
        if folder.exists():
            raise ConfigError("the engine that the model had before does not end; unload the model and load it again")


def _connect(folder: Path) -> socket.socket | None:
    """None where there is no host.

    Raises:
        BlockingIOError: it does not take what waits already. To wait for it would hold up everybody else as well.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        connection.connect(str(folder / folders.CONTROL))
    except BlockingIOError:
        connection.close()
        raise
    except OSError:  # there is none, or it has gone
        connection.close()
        return None
    connection.setblocking(True)
    return connection


def _remove_deserted(parent: Path) -> None:
    """Remove the folders of engines that were killed together with what looks after them. Under the lock of all."""
    for folder in parent.iterdir():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            try:
                connection.connect(str(folder / folders.CONTROL))
            except (ConnectionRefusedError, FileNotFoundError):
                shutil.rmtree(folder, ignore_errors=True)
            except OSError:  # it lives, or is not ours
                continue


def _start(
    folder: Path, name: folders.EngineName, program: str, grace_seconds: int, stall_seconds: int
) -> socket.socket:
    """Start a host for ``folder`` and connect to it: it takes what waits as soon as it has been loaded.

    Raises:
        OSError: there can be no folder, or no process.
    """
    _remove_deserted(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)  # of one that has gone
    try:
        folder.mkdir(mode=0o700)
        folders.note(folder, name)
        board.make(folder / folders.BOARD)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / folders.CONTROL))
            listening.listen(_BACKLOG)
            descriptor = listening.fileno()
            python = os.fsdecode(get_executable())
            numbers = [str(number) for number in (descriptor, name.server, grace_seconds, stall_seconds)]
            host = [python, "-m", program, str(folder), *numbers]
            command = [python, "-I", "-S", guard.__file__, str(folder), guard.mark(folder), str(descriptor), *host]
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[descriptor],
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            # The engine may end before this front does: the kernel keeps a child until its parent has asked for it.
            threading.Thread(target=started.wait, name="vllm_custom_host_guard", daemon=True).start()
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(folder / folders.CONTROL))
            return connection
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
