"""Run the frontend."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_custom_frontend.app import make_app
from vllm_custom_frontend.options import Options
from vllm_custom_frontend.serve import serve


def run(options: Options, arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT; open requests then have ``drain_seconds`` to end."""
    several = options.workers > 1
    serve(
        lambda is_stopping: make_app(options, is_stopping=is_stopping),
        options,
        "vllm_custom_frontend",
        arguments,
        supervised=several,
    )
