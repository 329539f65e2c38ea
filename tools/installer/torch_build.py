"""Which build of torch goes into a CPU environment, and where it comes from.

The +cpu build (190 MB) is not on PyPI. In order: wherever pip is configured to look, PyTorch's CPU index, and failing
both PyPI's default build, which brings CUDA libraries that a machine without a GPU never uses.
"""

from dataclasses import dataclass
from pathlib import Path

from tools.installer.machine import DEFAULT_TORCH_EXTRA_GIB, check_disk
from tools.installer.pip import Pip

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class TorchBuild:
    """One place to get torch from."""

    name: str
    arguments: tuple[str, ...]


def candidates(version: str) -> list[TorchBuild]:
    """The places for a CPU environment, best first. `===` keeps pip from taking +cpu for the default build."""
    impatient = ("--retries", "1", "--timeout", "20")
    return [
        TorchBuild("CPU build, pip's own configuration", ("--no-deps", f"torch=={version}+cpu")),
        TorchBuild(
            "CPU build, PyTorch's CPU index",
            ("--no-deps", *impatient, "--index-url", CPU_INDEX, f"torch=={version}+cpu"),
        ),
        TorchBuild("PyPI's default build", (f"torch==={version}", "numpy<2")),
    ]


def install_cpu(pip: Pip, version: str, folder: Path) -> str:
    """Install torch from the first place that has it, and return that place's name."""
    *builds, fallback = candidates(version)
    for build in builds:
        pip.progress.step(f"torch {version}: {build.name}")
        if pip.try_install(build.arguments):
            return build.name
    pip.progress.step(
        f"torch {version}: no CPU build can be had here, so PyPI's default build is taken: it works, and brings about "
        "4 GB of CUDA libraries that this machine does not use"
    )
    check_disk(folder, DEFAULT_TORCH_EXTRA_GIB)
    pip.install(fallback.arguments, f"torch {version}")
    return fallback.name


def install_cuda(pip: Pip, version: str) -> str:
    """PyPI's torch is the CUDA build; its libraries are in the lock."""
    pip.progress.step(f"torch {version}: PyPI's CUDA build")
    pip.install(("--no-deps", f"torch==={version}"), f"torch {version}")
    return "CUDA build"
