"""`test`: the linters, the types and the tests, on the environment's Python."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from tools.installer import official, processes
from tools.installer.console import BuildError, Progress
from tools.installer.environment import Environment
from tools.installer.paths import CHECKOUT
from tools.installer.server import child_environment

CHECKS = (
    ("ruff check", ("ruff", "check", ".")),
    ("ruff format", ("ruff", "format", "--check", ".")),
    ("mypy", ("mypy",)),
    ("codespell", ("codespell_lib",)),
)


# A stub that gets no core for a second makes Triton 24.10 give up a load. A test that gets too little fails as well.
_NICENESS = 5
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Level:
    """Tests that run together, and how."""

    name: str
    arguments: tuple[str, ...]


_SLOWEST = ("--durations=15", "--durations-min=1")
_COVERAGE = ("--cov", "--cov-report=term:skip-covered")
# What comes first say the folders' conftest.py.
_BY_SCHEDULE = "--no-loadscope-reorder"
# Many unit tests wait.
_FAST_PROCESSES = min(2 * (os.cpu_count() or 1), 16)
# A load has one core for most of its time. What goes together to one process says tests/support/scheduling.py. Modules
# with an engine take longer, and go first.
_SERVER_PROCESSES = 2
SERVERS = Level(
    "component and end-to-end tests",
    ("tests/end_to_end", "tests/component", "-n", str(_SERVER_PROCESSES), _BY_SCHEDULE, *_SLOWEST),
)
UNIT = Level("unit tests", ("tests/unit", "tests/fuzz", "-n", "logical", _BY_SCHEDULE, *_SLOWEST, *_COVERAGE))
FAST = Level(
    "unit tests, without slow ones",
    ("tests/unit", "tests/fuzz", "-m", "not slow", "-n", str(_FAST_PROCESSES), _BY_SCHEDULE, *_SLOWEST),
)
# What has to hold on every release of the base backend.
ANY_BASE = ("tests/component", "tests/end_to_end", "-m", "any_base")


def run(environment: Environment, progress: Progress, *, fast: bool = False) -> int:
    """The checks and then the tests. Goes on after a failure; returns 0 where all is well."""
    failed = []
    for name, module in CHECKS:
        progress.step(name)
        if _python(environment, module):
            failed.append(name)
    if fast:
        progress.step(FAST.name)
        if _python(environment, ("pytest", *FAST.arguments)):
            failed.append(FAST.name)
    else:
        failed += _all_levels(environment, progress)
    if failed:
        progress.step(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _all_levels(environment: Environment, progress: Progress) -> list[str]:
    """The names of those that failed. A server's tests leave some of the processor, which unit tests use meanwhile."""
    progress.step(f"{UNIT.name}, in the background")
    unit = Background(environment, ("pytest", *UNIT.arguments))
    failed = []
    try:
        progress.step(SERVERS.name)
        if _python(environment, ("pytest", *SERVERS.arguments), background=unit):
            failed.append(SERVERS.name)
        progress.step(UNIT.name)
        if unit.finish():
            failed.insert(0, UNIT.name)
    finally:
        unit.stop()
    return failed


def run_on_base(environment: Environment, progress: Progress, base: Path, arguments: Sequence[str]) -> int:
    """The tests that hold on every release, on the backend in the folder ``base``, or the tests that are named.

    Raises:
        BuildError: there is no backend in the folder.
    """
    folder = official.source_folder(base)
    if folder is None:
        raise BuildError(f"{base} has no model.py, nor has its src", "give --base the folder of a vLLM backend")
    return run_pytest(environment, progress, arguments or ANY_BASE, {"VLLM_BACKEND_DIR": str(folder.resolve())})


def run_pytest(
    environment: Environment,
    progress: Progress,
    arguments: Sequence[str],
    variables: Mapping[str, str] | None = None,
) -> int:
    """pytest alone, with more environment variables. Returns its own status: 5 says that no test was collected."""
    progress.step("pytest")
    return _python(environment, ("pytest", *arguments), variables)


class Background:
    """A module of Python that has the time which others leave, and says everything at its end."""

    def __init__(self, environment: Environment, module: Sequence[str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been shown
        self._process = _start(environment, module, None, output=self._said, background=True)

    def family(self) -> set[processes.Process]:
        """Its process, and all that it has started."""
        there = processes.snapshot()
        own = {there[self._process.pid]} if self._process.pid in there else set()
        return own | processes.family(self._process.pid, there)

    def finish(self) -> int:
        """Wait for its end, show what it has said. Returns its status. Raises KeyboardInterrupt when told to stop."""
        try:
            return _wait(self._process)
        finally:
            self._show()
            processes.end(processes.family(os.getpid(), processes.snapshot()), grace_seconds=5.0)

    def stop(self) -> None:
        """Let it clean up after itself, if it still runs."""
        if self._process.poll() is None:
            family = self.family()
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
            processes.end(family | self.family(), grace_seconds=5.0)
            self._process.wait()
        self._show()

    def _show(self) -> None:
        if not self._said.closed:
            self._said.seek(0)
            print(self._said.read().decode("utf-8", "replace"), end="", flush=True)
            self._said.close()


def _python(
    environment: Environment,
    module: Sequence[str],
    variables: Mapping[str, str] | None = None,
    *,
    background: Background | None = None,
) -> int:
    """Run a module, and let it clean up after itself when we are told to stop. Raises KeyboardInterrupt after that."""
    processes.adopt_orphans()
    process = _start(environment, module, variables)
    try:
        return _wait(process)
    finally:
        left = processes.family(os.getpid(), processes.snapshot()) - (background.family() if background else set())
        processes.end(left, grace_seconds=5.0)


def _start(
    environment: Environment,
    module: Sequence[str],
    variables: Mapping[str, str] | None,
    *,
    output: IO[bytes] | None = None,
    background: bool = False,
) -> subprocess.Popen[bytes]:
    env = child_environment(environment, variables)
    # Each of dozens of processes would compile all tests and sources anew.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    end_with_parent = processes.end_with_parent(adopt=background)

    def in_child() -> None:
        end_with_parent()
        if background:
            os.nice(_NICENESS)

    return subprocess.Popen(
        [str(environment.python), "-m", *module],
        cwd=CHECKOUT,
        env=env,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        preexec_fn=in_child,  # noqa: PLW1509 - system calls only, bound before the fork
    )


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its status. What tells us to stop is passed on to it; raises KeyboardInterrupt after its end then."""
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        # Ctrl-C reaches the module through the terminal by itself, and pytest takes a second one for impatience.
        if number != signal.SIGINT or not os.isatty(0):
            process.send_signal(signal.SIGINT)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if told:
        raise KeyboardInterrupt
    return status
