"""Let official releases find names that later vLLM versions moved.

What breaks: r25.10 to r26.01 of the official backend import `vllm.inputs.data.TokensPrompt` (the module is gone since
vLLM 0.20, the name is in `vllm.inputs`) and `vllm.v1.metrics.loggers.build_1_2_5_buckets` (in `vllm.v1.metrics.buckets`
later). The names are put back where the release looks for them; nothing else changes.
"""

from __future__ import annotations

import importlib.util
import sys

NAME = "moved_names"
BEFORE_VLLM = False


def applies(upstream: str, vllm_version: str) -> bool:
    """For the official backend, where the installed vLLM lacks the old module."""
    return upstream != "stand-in" and importlib.util.find_spec("vllm.inputs.data") is None


def apply() -> None:
    """Add the old names as aliases of the new ones."""
    import vllm.inputs
    from vllm.v1.metrics import loggers

    sys.modules.setdefault("vllm.inputs.data", vllm.inputs)
    if not hasattr(loggers, "build_1_2_5_buckets"):  # vLLM 0.20 still has it there
        from vllm.v1.metrics import buckets

        loggers.build_1_2_5_buckets = buckets.build_1_2_5_buckets
