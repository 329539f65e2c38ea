"""The commands of build.py: what each is called, takes and does."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from tools.installer import backends, environment, locks
from tools.installer.console import Progress


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    name: str
    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _environment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flavour", choices=locks.FLAVOURS, help="cuda where an NVIDIA GPU answers, else cpu")
    parser.add_argument("--python", metavar="PYTHON", help="the Python 3.11 or 3.12 to build on; the running one, if it fits")


def prepare(options: argparse.Namespace, progress: Progress) -> environment.Environment:
    """What every command that runs something needs: the environment and the backends folder."""
    ready = environment.ensure(progress, options.flavour, options.python)
    backends.assemble(ready)
    return ready


def install(options: argparse.Namespace) -> int:
    progress = Progress()
    ready = prepare(options, progress)
    progress.step(f"ready: {ready.folder} (torch: {ready.facts['torch']})")
    return 0


def lock(options: argparse.Namespace) -> int:
    locks.write_locks(Progress())
    return 0


COMMANDS = (
    Command(
        "install",
        "make the environment and the backends folder",
        "Install tritonserver, vLLM and what the tests need, from the lock, and assemble build/backends.",
        _environment_arguments,
        install,
    ),
    Command("lock", "resolve the dependencies anew", "Write locks/ from pyproject.toml.", lambda parser: None, lock),
)
