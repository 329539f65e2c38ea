"""Patches that must be there before any import: a module and a one-line .pth file in site-packages.

Triton's stub and vLLM's child processes start Python by themselves, so there is no code of ours to call first.
"""

import shutil
from pathlib import Path

from tools.installer.paths import PATCHES

# Patch module -> the flavours that need it.
AT_START = {"torchvision_ops": ("cpu",)}
PREFIX = "_vllm_custom_"


def install(site_packages: Path, flavour: str) -> None:
    """Bring the hooks up to date; writes nothing where they are."""
    for patch, flavours in AT_START.items():
        module = site_packages / f"{PREFIX}{patch}.py"
        hook = site_packages / f"{PREFIX}{patch}.pth"
        if flavour not in flavours:
            hook.unlink(missing_ok=True)
            module.unlink(missing_ok=True)
            continue
        source = PATCHES / f"{patch}.py"
        if not module.is_file() or module.read_bytes() != source.read_bytes():
            shutil.copyfile(source, module)
        line = f"import {module.stem}; {module.stem}.apply()\n"
        if not hook.is_file() or hook.read_text() != line:
            hook.write_text(line)
