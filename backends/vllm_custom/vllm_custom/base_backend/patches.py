"""Find and apply the runtime patches: small modules, each for one thing that breaks between fixed versions.

A patch module has ``NAME``, ``BEFORE_VLLM`` (it must act before vLLM is imported, which others may do),
``applies(upstream, vllm_version)`` and ``apply()``; see patches/README.md.
VLLM_CUSTOM_DISABLE_PATCHES (names, separated by commas) turns patches off.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from vllm_custom.base_backend.releases import UNKNOWN
from vllm_custom.errors import ConfigError

DISABLE_VARIABLE = "VLLM_CUSTOM_DISABLE_PATCHES"


@dataclass(frozen=True)
class PatchReport:
    """The names of the patches that apply here: those that were run, were switched off, or do not fit this vLLM."""

    applied: tuple[str, ...] = ()
    switched_off: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    def describe(self) -> str:
        """``[stub_locale, moved_names]``, for the log."""
        others = {"switched off": self.switched_off, "not possible": self.unfit}
        told = [f", {what}: [{', '.join(names)}]" for what, names in others.items() if names]
        return f"[{', '.join(self.applied)}]{''.join(told)}"


def apply_patches(directory: Path, upstream: str, vllm_version: str) -> PatchReport:
    """Apply what applies, those before vLLM first, then in the order of names.

    Args:
        directory: folder of patch modules; may be absent.
        upstream: the release name, e.g. ``"official r26.01"``, ``"stand-in"`` or ``"unknown"``.
        vllm_version: of the installed vLLM.

    Raises:
        ConfigError: VLLM_CUSTOM_DISABLE_PATCHES names a patch that does not exist.
    """
    patches = sorted(_load(directory), key=lambda patch: (not patch.BEFORE_VLLM, patch.NAME))
    disabled = _disabled({patch.NAME for patch in patches})
    outcomes = [(patch.NAME, _outcome(patch, upstream, vllm_version, disabled)) for patch in patches]

    def those(wanted: str) -> tuple[str, ...]:
        return tuple(name for name, outcome in outcomes if outcome == wanted)

    return PatchReport(those("applied"), those("switched off"), those("unfit"))


def _outcome(patch: ModuleType, upstream: str, vllm_version: str, disabled: set[str]) -> str:
    try:
        if not patch.applies(upstream, vllm_version):
            return "not needed"
        if patch.NAME in disabled:
            return "switched off"
        patch.apply()
    except Exception:
        # Whether an unknown release needs it is a guess, which must not stop one that does not.
        if upstream != UNKNOWN:
            raise
        return "unfit"
    return "applied"


def _disabled(known: set[str]) -> set[str]:
    names = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")} - {""}
    unknown = sorted(names - known)
    if unknown:
        raise ConfigError(
            f"{DISABLE_VARIABLE}: expected names among {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    return names


def _load(directory: Path) -> Iterator[ModuleType]:
    for path in sorted(directory.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        spec = importlib.util.spec_from_file_location(f"vllm_custom_patch_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load the patch {path.name}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
        yield module
