"""Find, identify, patch, load and extend the backend that this one builds on; nothing else knows its internals."""

from vllm_custom.base_backend.adapter import BaseModelAdapter, host_program
from vllm_custom.base_backend.extended import Hooks, extended
from vllm_custom.base_backend.keys import BaseKeys, keys_in, keys_of_base, without
from vllm_custom.base_backend.loader import LoadedBase, find_base, load_base, patch_as

__all__ = [
    "BaseKeys",
    "BaseModelAdapter",
    "Hooks",
    "LoadedBase",
    "extended",
    "find_base",
    "host_program",
    "keys_in",
    "keys_of_base",
    "load_base",
    "patch_as",
    "without",
]
