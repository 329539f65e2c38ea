"""The Python that the environment is made from, and the libpython that Triton's stub loads."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.installer.console import BuildError
from tools.installer.locks import PYTHONS

_ASK = """
import json, os, sys, sysconfig
try:
    import ensurepip
except ImportError:
    ensurepip = None
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])),
    "path": os.path.realpath(sys.executable),
    "base": sys.base_prefix,
    "libdir": sysconfig.get_config_var("LIBDIR") or "",
    "multiarch": sysconfig.get_config_var("MULTIARCH") or "",
    "soname": sysconfig.get_config_var("INSTSONAME") or "",
    "venv": ensurepip is not None,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that was asked about itself."""

    path: Path
    version: str
    base: Path
    libpython: Path | None
    can_make_venv: bool

    @property
    def minor(self) -> str:
        """ "3.11": what the stub and the wheels go by."""
        return ".".join(self.version.split(".")[:2])


def ask(path: str) -> Interpreter | None:
    """What this interpreter says of itself; None where it does not run."""
    try:
        result = subprocess.run([path, "-I", "-c", _ASK], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        facts = json.loads(result.stdout)
    except ValueError:  # another program
        return None
    return Interpreter(
        path=Path(facts["path"]),
        version=facts["version"],
        base=Path(facts["base"]),
        libpython=_libpython(facts),
        can_make_venv=facts["venv"],
    )


def _libpython(facts: dict[str, str]) -> Path | None:
    """The shared library of this very build: one of another patch release would run the wrong Python in the stub."""
    soname = f"libpython{'.'.join(facts['version'].split('.')[:2])}.so.1.0"
    folders = [Path(facts["libdir"]) / facts["multiarch"], Path(facts["libdir"]), Path(facts["base"]) / "lib"]
    return next((folder / soname for folder in folders if (folder / soname).is_file()), None)


def problem_of(interpreter: Interpreter) -> BuildError | None:
    """Why this interpreter cannot run the environment, or None where it can."""
    minor = interpreter.minor
    if minor not in PYTHONS:
        return BuildError(
            f"Python {interpreter.version} cannot run the environment: vLLM and numpy 1.26 have wheels for "
            f"{' and '.join(PYTHONS)} only",
            _apt(f"python{PYTHONS[0]}", f"python{PYTHONS[0]}-venv", f"libpython{PYTHONS[0]}"),
        )
    if interpreter.libpython is None:
        return BuildError(
            f"{interpreter.path} has no shared libpython{minor}.so.1.0, which Triton's Python stub loads",
            _apt(f"libpython{minor}") + "; a pyenv build needs PYTHON_CONFIGURE_OPTS=--enable-shared",
        )
    if not interpreter.can_make_venv:
        return BuildError(f"{interpreter.path} cannot make virtual environments", _apt(f"python{minor}-venv"))
    return None


def choose(wanted: str | None = None) -> Interpreter:
    """The interpreter to build on: the one asked for, else the running one, else the first on PATH that fits."""
    if wanted:
        found = ask(shutil.which(wanted) or wanted)
        if found is None:
            raise BuildError(f"{wanted} does not run", "give --python a Python 3.11 or 3.12")
        problem = problem_of(found)
        if problem:
            raise problem
        return found
    problems: list[tuple[Interpreter, BuildError]] = []
    for candidate in _candidates():
        found = ask(candidate)
        problem = problem_of(found) if found else None
        if found and problem is None:
            return found
        if found and problem:
            problems.append((found, problem))
    # A fitting version that lacks one Debian package is nearer than another version.
    raise next((problem for found, problem in problems if found.minor in PYTHONS), problems[0][1])


def _candidates() -> list[str]:
    """The running interpreter (outside its virtual environment), then those on PATH."""
    candidates = [str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())]
    for folder in os.get_exec_path():
        candidates += [str(Path(folder) / f"python{v}") for v in PYTHONS if (Path(folder) / f"python{v}").is_file()]
    return list(dict.fromkeys(candidates))


def _apt(*packages: str) -> str:
    return f"on Debian and Ubuntu: sudo apt-get install {' '.join(packages)}"
