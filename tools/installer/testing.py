"""`test`: the linters, the types and the tests, on the environment's Python."""

import os
import signal
import subprocess
from collections.abc import Sequence

from tools.installer import processes
from tools.installer.console import Progress
from tools.installer.environment import Environment
from tools.installer.paths import CHECKOUT
from tools.installer.server import child_environment

CHECKS = (
    ("ruff check", ("ruff", "check", ".")),
    ("ruff format", ("ruff", "format", "--check", ".")),
    ("mypy", ("mypy",)),
)


def run(environment: Environment, progress: Progress, pytest_arguments: Sequence[str]) -> int:
    """Everything without arguments, pytest alone with them. Goes on after a failure; returns 0 where all is well."""
    failed = []
    if not pytest_arguments:
        for name, module in CHECKS:
            progress.step(name)
            if _python(environment, module):
                failed.append(name)
    progress.step("pytest")
    # pytest's own status where it alone fails: 5 says that no test was collected.
    status = _python(environment, ("pytest", *pytest_arguments))
    if failed:
        progress.step(f"failed: {', '.join(failed)}")
    return status or (1 if failed else 0)


def _python(environment: Environment, module: Sequence[str]) -> int:
    """Run a module. Ctrl-C reaches it through the terminal; we wait for it to clean up after itself."""
    processes.adopt_orphans()
    process = subprocess.Popen(
        [str(environment.python), "-m", *module], cwd=CHECKOUT, env=child_environment(environment)
    )
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            if not os.isatty(0):
                process.send_signal(signal.SIGINT)
    processes.end(processes.family(os.getpid(), processes.snapshot()), grace_seconds=5.0)
    return status
