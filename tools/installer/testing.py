"""`test`: the linters, the types and the tests, on the environment's Python."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

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


@dataclass(frozen=True)
class Level:
    """Tests that run together, and how."""

    name: str
    arguments: tuple[str, ...]


_SLOWEST = ("--durations=15", "--durations-min=1")
_COVERAGE = ("--cov", "--cov-report=term:skip-covered")
# By files: what a module sets up is set up once. In the order of the folders, slow ones first (tests/unit/conftest.py).
_PARALLEL = ("-n", "logical", "--dist", "loadfile", "--no-loadscope-reorder")
# One server, and one engine that has all cores: where its stub gets none for a second, Triton 24.10 gives up a load.
LEVELS = (
    Level("unit tests", ("tests/unit", "tests/fuzz", *_PARALLEL, *_SLOWEST, *_COVERAGE)),
    Level("component tests", ("tests/component", *_SLOWEST)),
    Level("end-to-end tests", ("tests/end_to_end", *_SLOWEST)),
)
FAST = Level("unit tests, without slow ones", ("tests/unit", "tests/fuzz", "-m", "not slow", *_PARALLEL, *_SLOWEST))
# What has to hold on every release of the base backend.
ANY_BASE = ("tests/component", "tests/end_to_end", "-m", "any_base")


def run(environment: Environment, progress: Progress, levels: Sequence[Level] = LEVELS) -> int:
    """The checks and then the tests. Goes on after a failure; returns 0 where all is well."""
    failed = []
    for name, module in CHECKS:
        progress.step(name)
        if _python(environment, module):
            failed.append(name)
    for level in levels:
        progress.step(level.name)
        if _python(environment, ("pytest", *level.arguments)):
            failed.append(level.name)
    if failed:
        progress.step(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


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


def _python(environment: Environment, module: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
    """Run a module, and let it clean up after itself when we are told to stop. Raises KeyboardInterrupt after that."""
    processes.adopt_orphans()
    process = subprocess.Popen(
        [str(environment.python), "-m", *module],
        cwd=CHECKOUT,
        env=child_environment(environment, variables),
        preexec_fn=processes.end_with_parent(),  # noqa: PLW1509 - prctl only, bound before the fork
    )
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
    processes.end(processes.family(os.getpid(), processes.snapshot()), grace_seconds=5.0)
    if told:
        raise KeyboardInterrupt
    return status
