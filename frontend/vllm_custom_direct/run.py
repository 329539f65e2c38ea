"""Run the direct OpenAI server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette

from vllm_custom_direct.options import Options
from vllm_custom_frontend.serve import serve


def run(options: Options, arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT; open requests then have ``drain_seconds`` to end."""

    def make(is_stopping: Callable[[], bool]) -> Starlette:
        # What is above the workers needs no vLLM, and is not to import it.
        from vllm_custom_direct.app import make_app

        return make_app(options, is_stopping)

    serve(make, options, "vllm_custom_direct", arguments, supervised=True)
