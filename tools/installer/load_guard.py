"""A load that hangs: found while it is under way, and ended.

Where a model's stub gives Triton 24.10 no sign of life for a second while it loads, as on a machine that is very busy,
Triton gives the model up and waits for the stub to end, which has loaded in the meantime and never does. The load does
not return. Once the stub is killed it fails, with "is not healthy", and the model can be loaded again.
"""

import contextlib
import os
import platform
import signal
import threading
import time
from pathlib import Path
from types import TracebackType

from tools.installer import processes

# A stub whose load has failed ends its engine first, and then itself.
GRACE_SECONDS = 20.0
_POLL_SECONDS = 1.0
# The system call's number, which differs between platforms.
_WAIT4 = {"x86_64": "61", "aarch64": "260"}.get(platform.machine())


class LoadGuard:
    """Looks for stubs that tritonserver waits for, and kills those that have not ended in time.

    As a context manager it looks by itself, in a thread. To be used while models load and none is unloaded: to unload
    is to wait for a stub as well.
    """

    def __init__(self, server: int, grace_seconds: float = GRACE_SECONDS) -> None:
        """``server``: the process id of tritonserver, a child of this process."""
        self.ended: list[int] = []
        self._server = server
        self._grace = grace_seconds
        self._since: dict[processes.Process, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="load-guard", daemon=True)

    def look(self) -> None:
        """Kill each stub that has been waited for too long; its process id is then in ``ended``."""
        now = time.monotonic()
        waited = {process for pid in _waited_for(self._server) if (process := processes.read(pid)) is not None}
        self._since = {process: self._since.get(process, now) for process in waited if process.state != "Z"}
        for process, since in self._since.items():
            if now - since >= self._grace:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                    self.ended.append(process.pid)

    def __enter__(self) -> "LoadGuard":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(min(_POLL_SECONDS, self._grace)):
            self.look()


def _waited_for(server: int) -> set[int]:
    """The processes for whose end a thread of ``server`` waits; empty where the system does not say."""
    found = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{server}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended, or may not be looked at
                number, _, arguments = (task / "syscall").read_text().partition(" ")
                if number == _WAIT4:
                    pid = int(arguments.split()[0], 16)
                    found.add(pid)
    # -1 and groups of processes are no stub.
    return {pid for pid in found if 0 < pid < 2**31}
