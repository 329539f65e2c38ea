"""What this machine offers: an NVIDIA GPU, disk space, memory, the right kind of system."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from tools.installer.console import BuildError

GIB = 1024**3
# Measured: 2.8 GB and 8.8 GB installed; pip's cache and the unpacking need space in addition.
DISK_GIB = {"cpu": 4.5, "cuda": 15.0}
# PyPI's default torch brings CUDA libraries: 3.7 GB more installed, and their wheels in addition meanwhile.
DEFAULT_TORCH_EXTRA_GIB = 6.0


def default_flavour() -> str:
    """cuda where an NVIDIA GPU answers, else cpu."""
    return "cuda" if nvidia_gpus() else "cpu"


def nvidia_gpus() -> list[str]:
    """The names of the GPUs that the driver shows; none where there is no driver."""
    return _ask_nvidia_smi("name")


def nvidia_memory_bytes() -> list[int]:
    """The memory of each GPU; empty where there is no driver."""
    return [int(value) * 1024**2 for value in _ask_nvidia_smi("memory.total") if value.isdigit()]


def _ask_nvidia_smi(field: str) -> list[str]:
    """One value per GPU, without units."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def check_system() -> None:
    """Raises BuildError where the wheels cannot work: they are for Linux on x86_64, tritonserver's for glibc 2.35."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in ("x86_64", "AMD64"):
        raise BuildError(
            f"{system} on {machine} is not supported: the packages of the environment are locked for Linux on x86_64",
            "use a Linux x86_64 machine, or NVIDIA's Triton container",
        )
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2]) if version else ()
    if library == "glibc" and numbers < (2, 35):
        raise BuildError(
            f"glibc {version} is too old for tritonserver, which needs 2.35", "use Debian 12 or Ubuntu 22.04"
        )


def free_gib(folder: Path) -> float:
    """Free space on the disk that will hold this folder, whether or not it exists yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free / GIB


def check_disk(folder: Path, needed_gib: float) -> None:
    available = free_gib(folder)
    if available < needed_gib:
        raise BuildError(
            f"{folder} has {available:.1f} GiB free and the environment needs {needed_gib:.1f} GiB",
            "free some space, or set VLLM_CUSTOM_HOME to a folder on a larger disk",
        )


def total_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
