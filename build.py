#!/usr/bin/env python3
"""Install, serve, try, test and diagnose vllm_custom. Start with `python3 build.py demo`; each command has --help.

Runs on a bare Python 3.10 or later. The work is done in tools/installer; this file only reads the command line.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

if sys.version_info < (3, 10):  # noqa: UP036 - said here, before a newer syntax fails less plainly
    sys.exit(f"build.py needs Python 3.10 or later, this is {sys.version.split()[0]}")

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tools.installer import command_table
from tools.installer.console import BuildError
from tools.installer.paths import COMMAND, PROGRAM

_DESCRIPTION = f"""Install, serve, try and diagnose vllm_custom.

Start with `{COMMAND} demo`; each command has --help.
"""


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in command_table.offered():
        sub = subcommands.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, extra_args = _split(given)
    options = parser().parse_args(given)
    options.extra_args = extra_args
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return int(options.run(options))
    except BuildError as error:
        print(f"\n{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: stopped (the same command continues an installation)", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    """To be told to end is to be interrupted: servers are stopped, half-made folders removed."""
    raise KeyboardInterrupt


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Everything after the first `--` is for the program that build.py starts."""
    if "--" not in arguments:
        return arguments, []
    cut = arguments.index("--")
    return arguments[:cut], arguments[cut + 1 :]


if __name__ == "__main__":
    sys.exit(main())
