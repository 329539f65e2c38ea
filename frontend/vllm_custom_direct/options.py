"""The command line of the direct OpenAI server."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_custom_frontend.option_values import positive
from vllm_custom_frontend.options import ServerOptions, add_server_arguments, server_arguments


@dataclass(frozen=True)
class Options(ServerOptions):
    """What it was told.

    Attributes:
        server: process id of the tritonserver whose models it serves, or of what has started it; None for any.
        triton_http: URL of its HTTP service; None where it is not to be asked.
    """

    server: int | None = None
    triton_http: str | None = None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; ends the process with a message where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_custom_direct",
        description="OpenAI's HTTP API on the engines of a tritonserver of this machine, past Triton. "
        "Models whose instances share an engine are served (SHARE_ENGINE of config.pbtxt).",
    )
    parser.add_argument(
        "--server",
        type=positive,
        metavar="PID",
        help="process id of the tritonserver, or of what has started it (default: those of all that this user runs)",
    )
    parser.add_argument(
        "--triton-http",
        metavar="URL",
        help="its HTTP service, which tells models that are being loaded from those that do not exist",
    )
    add_server_arguments(parser)
    given = parser.parse_args(arguments)
    return Options(**server_arguments(parser, given), server=given.server, triton_http=given.triton_http)
