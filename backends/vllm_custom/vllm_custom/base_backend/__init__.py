"""Find, identify, patch, load and extend the backend that this one builds on; nothing else knows its internals.

The installer imports this on a bare Python, without pydantic: what needs it (keys) is imported by its module's name.
"""

from vllm_custom.base_backend.adapter import BaseModelAdapter, host_program
from vllm_custom.base_backend.extended import Hooks, extended
from vllm_custom.base_backend.loader import LoadedBase, find_base, load_base, patch_as

__all__ = [
    "BaseModelAdapter",
    "Hooks",
    "LoadedBase",
    "extended",
    "find_base",
    "host_program",
    "load_base",
    "patch_as",
]
