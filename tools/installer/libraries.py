"""Which shared libraries a file needs, and which of them the loader does not find, as ldd tells."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.installer.console import BuildError

_LINE = re.compile(r"^\s*(\S+) => (not found|\S+)")
_LIBPYTHON = re.compile(r"libpython(3\.\d+)\.so")
_OF_THE_DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class Needs:
    """The libraries of one file: name to path, None where the loader does not find it."""

    libraries: dict[str, Path | None]

    @property
    def missing(self) -> list[str]:
        """Those that the loader does not find, the driver's left out: containers get these when they start."""
        return sorted(name for name, path in self.libraries.items() if path is None and name not in _OF_THE_DRIVER)

    @property
    def python_minor(self) -> str | None:
        """ "3.12" where the file needs that libpython."""
        found = next((match for match in map(_LIBPYTHON.match, self.libraries) if match), None)
        return found[1] if found else None


def needs_of(path: Path, library_path: Sequence[Path] = ()) -> Needs:
    """What ldd says about ``path``, with ``library_path`` before LD_LIBRARY_PATH. Raises BuildError without ldd."""
    if shutil.which("ldd") is None:
        raise BuildError("ldd is not installed", "on Debian and Ubuntu: sudo apt-get install libc-bin")
    folders = [str(folder) for folder in library_path] + [os.environ.get("LD_LIBRARY_PATH", "")]
    env = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders)), "LC_ALL": "C"}
    result = subprocess.run(["ldd", str(path)], env=env, capture_output=True, text=True, timeout=60, check=False)
    found: dict[str, Path | None] = {}
    for match in filter(None, map(_LINE.match, result.stdout.splitlines())):
        found[match[1]] = None if match[2] == "not found" else Path(match[2])
    return Needs(found)


def elf_files(folder: Path) -> Iterator[Path]:
    """Every file below ``folder`` that the loader would load."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as handle:
                if handle.read(4) == _ELF:
                    yield path
