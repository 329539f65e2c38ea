"""Patches that must be there before any import: a module and a one-line .pth file in site-packages.

Triton's stub and vLLM's child processes start Python by themselves, so there is no code of ours to call first.
"""

from collections.abc import Mapping
from pathlib import Path

from tools.installer.paths import PATCHES

# Patch module -> the flavours that need it.
AT_START: Mapping[str, tuple[str, ...]] = {"torchvision_ops": ("cpu",)}
PREFIX = "_vllm_custom_"


def wanted(flavour: str) -> list[str]:
    return [patch for patch, flavours in AT_START.items() if flavour in flavours]


def files(flavour: str) -> dict[str, str]:
    """The name and text of every file that belongs into site-packages."""
    found = {}
    for patch in wanted(flavour):
        module = f"{PREFIX}{patch}"
        found[f"{module}.py"] = (PATCHES / f"{patch}.py").read_text()
        found[f"{module}.pth"] = f"import {module}; {module}.apply()\n"
    return found


def is_current(site_packages: Path, flavour: str) -> bool:
    expected = files(flavour)
    present = {path.name for path in site_packages.glob(f"{PREFIX}*") if path.is_file()}
    return present == set(expected) and all(
        (site_packages / name).read_text() == text for name, text in expected.items()
    )


def install(site_packages: Path, flavour: str) -> None:
    """Bring the hooks up to date; writes nothing where they are."""
    if is_current(site_packages, flavour):
        return
    # A start of Python in between must not look for a module that is gone: .pth files go first and come last.
    for suffix in (".pth", ".py"):
        for path in site_packages.glob(f"{PREFIX}*{suffix}"):
            path.unlink()
    for name, text in files(flavour).items():
        (site_packages / name).write_text(text)
