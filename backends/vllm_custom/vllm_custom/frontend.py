"""``python -m vllm_custom.frontend``: the earlier name of ``python -m vllm_custom_frontend``."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    # The frontend lies next to this package, except in a checkout.
    sys.path.append(str(Path(__file__).resolve().parents[3] / "frontend"))
    runpy.run_module("vllm_custom_frontend", run_name="__main__", alter_sys=True)
