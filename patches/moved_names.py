"""Let official releases find names that later vLLM versions moved or renamed.

What breaks: the imports of official releases, with an ImportError at load. r25.11 to r26.01 import
`vllm.inputs.data.TokensPrompt` (moved before vLLM 0.20.2), r25.10 to r26.01 import
`vllm.v1.metrics.loggers.build_1_2_5_buckets` (moved after it), r25.01 to r25.10 import
`vllm.sampling_params.GuidedDecodingParams`, which is StructuredOutputsParams since then. The names are put back where
the releases look for them; nothing else changes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

NAME = "moved_names"
BEFORE_VLLM = False

# The old module, the old name; the module and the name of today.
_MOVED = (
    ("vllm.inputs.data", "TokensPrompt", "vllm.inputs", "TokensPrompt"),
    ("vllm.v1.metrics.loggers", "build_1_2_5_buckets", "vllm.v1.metrics.buckets", "build_1_2_5_buckets"),
    ("vllm.sampling_params", "GuidedDecodingParams", "vllm.sampling_params", "StructuredOutputsParams"),
)


def applies(upstream: str, vllm_version: str) -> bool:
    """For the official backend, where the installed vLLM lacks one of the names."""
    return upstream != "stand-in" and any(not _has(module, name) for module, name, _, _ in _MOVED)


def apply() -> None:
    """Add the old names as aliases of those of today."""
    for module, name, today, today_name in _MOVED:
        if not _has(module, name) and _has(today, today_name):
            setattr(_module(module), name, getattr(importlib.import_module(today), today_name))


def _has(module: str, name: str) -> bool:
    found = module in sys.modules or importlib.util.find_spec(module) is not None
    return found and hasattr(importlib.import_module(module), name)


def _module(name: str) -> ModuleType:
    """The module; an empty one in its place where vLLM has it no more."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = ModuleType(name, "Names that vLLM has moved elsewhere.")
    return importlib.import_module(name)
