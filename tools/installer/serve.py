"""`serve`: tritonserver in the foreground, until Ctrl-C or SIGTERM."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tools.installer import processes
from tools.installer.frontend import Frontend
from tools.installer.healing import healer_of
from tools.installer.load_guard import LoadGuard
from tools.installer.paths import CHECKOUT, COMMAND, DEFAULT_REPOSITORY, IS_PACKAGED, PROGRAM
from tools.installer.server import DRAIN_SECONDS, END_SECONDS, HUNG, TritonServer

DEFAULT_MODEL = "shapes_vl"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS = 0.1


def models_of(repository: Path, extra_args: Sequence[str] = ()) -> list[str] | None:
    """Of our own repository only shapes_vl: the other examples need weights. Another one is loaded whole.

    Both under explicit model control, without which a model whose process was killed cannot be loaded again. None where
    tritonserver's own options say what is loaded.
    """
    if any(argument.lstrip("-").startswith(("model-control-mode", "load-model")) for argument in extra_args):
        return None
    return [DEFAULT_MODEL] if repository.resolve() == DEFAULT_REPOSITORY.resolve() else ["*"]


@dataclass
class Stopper:
    """Turns signals into a request to stop: the first one drains, the second one does not wait."""

    server: TritonServer
    frontend: Frontend | None = None
    _asked: int = field(default=0, init=False)
    _asked_at: float = field(default=0.0, init=False)

    @property
    def asked(self) -> bool:
        return self._asked > 0

    @property
    def has_to_act(self) -> bool:
        """Whether there is nothing more to wait for in peace: the server has been asked, or should have been by now."""
        if not self.asked:
            return False
        first = self.frontend if self.frontend and self.frontend.ends_first else None
        return first is None or time.monotonic() - self._asked_at >= END_SECONDS

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked == 1:
            self._asked_at = time.monotonic()
            _say(f"stopping (requests in flight have {DRAIN_SECONDS} s to end; once more stops at once)")
            if self.frontend:
                self.frontend.ask_to_stop()
            if not (self.frontend and self.frontend.ends_first):
                self.server.ask_to_stop()
        elif self._asked == 2:
            self.server.kill()
            if self.frontend and self.frontend.ends_first:
                self.frontend.kill()


def _say(text: str) -> None:
    # os.write and not print: this runs in signal handlers, where print may be interrupted inside itself.
    os.write(sys.stderr.fileno(), f"{text}\n".encode())


class _Watch:
    """Looks after a server: at its loads, and once they are done at its instances."""

    def __init__(self, server: TritonServer, on_ready: Callable[[TritonServer], None]) -> None:
        self.guard = LoadGuard(server.pid)
        self._healer = healer_of(server.pid, server.command[1:], _say)
        self._server = server
        self._on_ready = on_ready
        self._ready = False

    def look(self) -> None:
        if self._ready:
            if self._healer is not None:
                self._healer.look()
            return
        self.guard.look()
        if self._server.is_ready():
            self._ready = True
            self._on_ready(self._server)


def run(server: TritonServer, on_ready: Callable[[TritonServer], None], frontend: Frontend | None = None) -> int:
    """Serve until told to stop or until one of the two ends by itself. Returns the exit status."""
    stopper = Stopper(server, frontend)
    previous = {number: signal.signal(number, stopper) for number in _STOP_SIGNALS}
    try:
        server.start()
        if frontend:
            frontend.start()
        watch = _Watch(server, on_ready)
        _until_one_ends(stopper, watch)
        failed = server.returncode is None and not stopper.asked
        if failed:
            _say("the OpenAI server has ended; stopping")
        if stopper.has_to_act and frontend and frontend.ends_first:
            frontend.kill()
        server.stop()
        if server.was_ended_by_force:
            _say("tritonserver did not end by itself, and was ended by force")
        if frontend:
            frontend.stop()
        # Whatever else came to us as an orphan: nothing of this server may outlive the command.
        processes.end(processes.family(os.getpid(), processes.snapshot()), grace_seconds=5.0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if stopper.asked:
        _say("stopped")
        return 0
    if watch.guard.ended:
        _say(f"{HUNG}; the same command starts it again")
    return 1 if failed else _exit_status(server.returncode)


def _until_one_ends(stopper: Stopper, watch: _Watch) -> None:
    """Returns when tritonserver or the OpenAI server has ended, or has to be ended."""
    server, frontend = stopper.server, stopper.frontend
    while server.returncode is None and (frontend is None or frontend.returncode is None):
        if stopper.has_to_act:
            return
        if not stopper.asked:
            watch.look()
        time.sleep(_POLL_SECONDS)


def _exit_status(returncode: int | None) -> int:
    """As shells report it where a signal has ended the program."""
    if returncode is None:
        return 1
    return returncode if returncode >= 0 else 128 - returncode


def banner(server: TritonServer, frontend: Frontend | None = None) -> str:
    """What to do with a server that has just become ready."""
    lines = [
        "",
        "  vllm_custom is ready",
        f"    HTTP     {server.http_url}",
        f"    gRPC     {server.grpc_url}",
        f"    metrics  {server.metrics_url}",
    ]
    if frontend:
        lines.append(f"    OpenAI   {frontend.url}")
    if server.models and DEFAULT_MODEL in server.models:
        lines += [
            "  try",
            f'    curl {server.http_url}/v2/models/{DEFAULT_MODEL}/generate -d \'{{"text_input": "2+3="}}\'',
            f"    {_front_door()} demo",
        ]
    return "\n".join([*lines, "  Ctrl-C stops it", ""])


def _front_door() -> str:
    """What starts a command from the folder that the user is in."""
    if IS_PACKAGED:
        return COMMAND
    path = CHECKOUT / PROGRAM
    return f"python3 {os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}"
