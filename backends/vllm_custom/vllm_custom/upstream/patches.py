"""Find and apply the runtime patches: small modules, each for one thing that breaks between fixed versions.

A patch module has ``NAME``, ``BEFORE_VLLM`` (it must act before vLLM is imported, which others may do),
``applies(upstream, vllm_version)`` and ``apply()``; see patches/README.md.
VLLM_CUSTOM_DISABLE_PATCHES (names, separated by commas) turns patches off.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

DISABLE_VARIABLE = "VLLM_CUSTOM_DISABLE_PATCHES"


def apply_patches(directory: Path, upstream: str, vllm_version: str) -> list[str]:
    """Apply what applies, those before vLLM first, then in the order of names; return the names.

    Args:
        directory: folder of patch modules; may be absent.
        upstream: the release name, e.g. ``"official r26.01"``, ``"stand-in"`` or ``"unknown"``.
        vllm_version: of the installed vLLM.
    """
    disabled = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")}
    applied = []
    for patch in sorted(_load(directory), key=lambda patch: (not patch.BEFORE_VLLM, patch.NAME)):
        if patch.NAME not in disabled and patch.applies(upstream, vllm_version):
            patch.apply()
            applied.append(patch.NAME)
    return applied


def _load(directory: Path) -> Iterator[ModuleType]:
    for path in sorted(directory.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        spec = importlib.util.spec_from_file_location(f"vllm_custom_patch_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load the patch {path.name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
