"""The engine's processes must not outlive the stub that they work for.

vLLM's processes do not notice that the stub has gone without finalizing: because Triton killed it when it gave no sign
of life for a second, because the kernel did for want of memory, or because tritonserver itself had died. They would
keep the device's memory for good. So the stub leads a process group of its own, into which everything that it starts
is born, and one small process of that group ends the group as soon as the stub is no more.

Run as a program, with the stub's process id as its argument, this file is that small process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.spawn import get_executable

_POLL_SECONDS = 0.5


class OrphanGuard:
    """Watches over the process that makes it, from then on until :meth:`stop`. Make it before the engine."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        """``warn`` is told when there can be no guard; the model works without one."""
        self._process: subprocess.Popen[bytes] | None = None
        if os.getpgrp() == os.getpid():
            return  # it leads a group of its own: guarded already
        try:
            os.setpgid(0, 0)
            command = [os.fsdecode(get_executable()), "-I", "-S", __file__, str(os.getpid())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError as error:
            warn(f"[vllm_custom] nothing will end the engine's processes if this one is killed: {error}")

    def stop(self) -> None:
        """The engine has ended in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def main() -> None:
    stub = int(sys.argv[1])
    while os.getppid() == stub:
        time.sleep(_POLL_SECONDS)
    os.killpg(stub, signal.SIGKILL)


if __name__ == "__main__":
    main()
