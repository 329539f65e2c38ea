"""`test`: the linters, the types and the tests, on the environment's Python."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType

from tools.installer import processes
from tools.installer.console import Progress
from tools.installer.environment import Environment
from tools.installer.paths import CHECKOUT
from tools.installer.server import child_environment

CHECKS = (
    ("ruff check", ("ruff", "check", ".")),
    ("ruff format", ("ruff", "format", "--check", ".")),
    ("mypy", ("mypy",)),
    ("codespell", ("codespell_lib",)),
)


def run(environment: Environment, progress: Progress, pytest_arguments: Sequence[str]) -> int:
    """Everything without arguments, pytest alone with them. Goes on after a failure; returns 0 where all is well."""
    failed = []
    if not pytest_arguments:
        for name, module in CHECKS:
            progress.step(name)
            if _python(environment, module):
                failed.append(name)
    status = run_pytest(environment, progress, pytest_arguments)
    if failed:
        progress.step(f"failed: {', '.join(failed)}")
    return status or (1 if failed else 0)


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
