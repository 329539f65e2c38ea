"""``python -m vllm_custom_direct``."""

from __future__ import annotations

import sys

from vllm_custom_direct import options
from vllm_custom_direct.run import run

if __name__ == "__main__":
    run(options.parse(), sys.argv[1:])
