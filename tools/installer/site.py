"""`docs`: build or show the site of docs/, on the environment's Python."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.installer.console import BuildError
from tools.installer.environment import Environment
from tools.installer.paths import BUILD, CHECKOUT
from tools.installer.server import child_environment

_ACTIONS = ("build", "serve")
# Material for MkDocs prints an advertisement for its successor otherwise.
_VARIABLES = {"NO_MKDOCS_2_WARNING": "1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=_ACTIONS, default="build", help="default: build")
    parser.add_argument("--output", type=Path, default=BUILD / "site", metavar="FOLDER", help="default: build/site")
    address = "of serve (default: 127.0.0.1:8003)"
    parser.add_argument("--address", default="127.0.0.1:8003", metavar="HOST:PORT", help=address)


def run(environment: Environment, options: argparse.Namespace) -> int:
    """Build the site, or serve it until Ctrl-C. Returns MkDocs' own status."""
    if options.action == "serve":
        try:
            return _mkdocs(environment, serve_arguments(options.address))
        except KeyboardInterrupt:
            return 0
    status = _mkdocs(environment, build_arguments(options.output))
    if status == 0:
        print(f"built: {options.output}/index.html", file=sys.stderr)
    return status


def _mkdocs(environment: Environment, arguments: Sequence[str]) -> int:
    command = [str(environment.python), "-m", "mkdocs", *arguments]
    variables = child_environment(environment, _VARIABLES)
    return subprocess.run(command, cwd=CHECKOUT, env=variables, check=False).returncode


def build_arguments(output: Path) -> list[str]:
    """For MkDocs; a warning, such as a link that leads nowhere, is a failure."""
    return ["build", "--strict", "--site-dir", str(output.resolve())]


def serve_arguments(address: str) -> list[str]:
    """For MkDocs. Raises BuildError for what is no address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BuildError(f"--address: expected HOST:PORT, got {address}")
    return ["serve", "--dev-addr", address]
