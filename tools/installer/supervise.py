"""`supervise`: tritonserver as the first process of a container runs it, or supervisord.

Signals are passed on, orphans are reaped, and instances whose process was killed are replaced. One that hangs as it
ends is ended by force, and one whose supervisor is killed ends as well.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from tools.installer import ensembles, ports, processes, triton_options
from tools.installer.healing import healer_of

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_POLL_SECONDS = 0.2
# After tritonserver's own time for requests to end, whose default is 30 s.
_GRACE_SECONDS = 30.0
_DRAIN_SECONDS = "30"


def run(command: Sequence[str]) -> int:
    """Run tritonserver until it ends. Returns its exit status.

    Args:
        command: the program and its options.
    """
    if (refusal := ensembles.refusal(command)) is not None:
        _say(refusal)
    process = subprocess.Popen(command, preexec_fn=processes.end_with_parent())  # noqa: PLW1509 - bound before the fork
    told_at: list[float] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        told_at.append(time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    for number in _SIGNALS:
        signal.signal(number, pass_on)
    healer = healer_of(process.pid, command[1:], _say)
    force_after = patience(command)
    while process.poll() is None:
        if told_at and time.monotonic() - told_at[0] >= force_after:
            _say(f"tritonserver has not ended within {force_after:.0f} s, and is ended by force")
            process.kill()
            process.wait()
        elif healer is not None and not told_at:
            healer.look()
        _reap_others(process.pid)
        time.sleep(_POLL_SECONDS)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def patience(command: Sequence[str]) -> float:
    """Seconds from the first signal to force."""
    given = triton_options.value(command, "exit-timeout-secs", _DRAIN_SECONDS)
    return float(given if given.isdecimal() else _DRAIN_SECONDS) + _GRACE_SECONDS


def check_ports(command: Sequence[str], openai: tuple[str, int] | None = None) -> None:
    """Before the start: each port once, and free. Raises BuildError.

    Args:
        command: tritonserver and its options.
        openai: address and port of a frontend next to it.
    """
    taken: set[int] = set()
    for service, usual in triton_options.PORTS.items():
        port = triton_options.value(command, f"{service}-port", str(usual))
        shared = triton_options.value(command, f"reuse-{service}-port", "false").lower() in ("true", "1")
        if port.isdecimal() and triton_options.is_served(command, service) and not shared:
            address = triton_options.address(command, service, "0.0.0.0")  # noqa: S104 - tritonserver's default
            ports.choose(address, int(port), f"--{service}-port", taken)
    if openai is not None:
        ports.choose(*openai, "--openai-port", taken)


def _reap_others(server: int) -> None:
    """Children that are none of ours come to the first process of a container."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == server:
                return
            os.waitpid(ended.si_pid, 0)


def _say(text: str) -> None:
    print(f"[vllm_custom] {text}", file=sys.stderr, flush=True)
