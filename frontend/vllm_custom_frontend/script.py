"""The command ``vllm-custom-frontend``."""

from __future__ import annotations

import sys

from vllm_custom_frontend import options


def main() -> None:
    """Run the frontend. Raises SystemExit, which says what to install, where a package of its extra is missing."""
    given = options.parse()
    try:
        from vllm_custom_frontend.run import run
    except ModuleNotFoundError as error:
        sys.exit(f"vllm-custom-frontend needs {error.name}: python3 -m pip install 'vllm_custom[frontend]'")
    run(given, sys.argv[1:])
