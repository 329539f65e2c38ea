"""An installation of Triton as its containers have it: bin, lib, backends below one folder."""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.installer.console import BuildError
from tools.installer.libraries import needs_of

STUB = "triton_python_backend_stub"
_VERSION_VARIABLE = "TRITON_SERVER_VERSION"
_ASK_API = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.TRITONBACKEND_ApiVersion.restype = ctypes.c_void_p
major, minor = ctypes.c_uint32(), ctypes.c_uint32()
if library.TRITONBACKEND_ApiVersion(ctypes.byref(major), ctypes.byref(minor)) is not None:
    sys.exit(1)
print(major.value, minor.value)
"""


@dataclass(frozen=True)
class TritonTree:
    """One installation; ``root`` is /opt/tritonserver in a container."""

    root: Path

    @classmethod
    def of(cls, folder: Path) -> "TritonTree":
        """``folder`` may be the installation or its backends. Raises BuildError where it is neither."""
        if not folder.is_dir():
            raise BuildError(f"{folder} is not a folder", "name the folder of a Triton installation")
        root = folder.resolve()
        if not (root / "backends").is_dir() and root.name == "backends":
            root = root.parent
        if not (root / "backends").is_dir():
            raise BuildError(
                f"{folder} is not a Triton installation: it has no folder backends",
                "name the folder that holds bin, lib and backends (/opt/tritonserver in a container)",
            )
        return cls(root)

    @property
    def backends(self) -> Path:
        return self.root / "backends"

    @property
    def python_library(self) -> Path:
        return self.backends / "python/libtriton_python.so"

    @property
    def stub(self) -> Path:
        return self.backends / "python" / STUB

    @property
    def library_path(self) -> list[Path]:
        return [self.root / "lib"] if (self.root / "lib").is_dir() else []

    @cached_property
    def python_minor(self) -> str | None:
        """Of the interpreter that the stub embeds; None without a stub."""
        return needs_of(self.stub, self.library_path).python_minor if self.stub.is_file() else None

    @cached_property
    def server_library(self) -> Path | None:
        """libtritonserver: in lib, or wherever the Python backend finds it."""
        libraries = sorted((self.root / "lib").glob("libtritonserver*.so*"))
        if libraries:
            return libraries[0]
        if not self.python_library.is_file():
            return None
        needed = needs_of(self.python_library, self.library_path).libraries
        return next((path for name, path in needed.items() if path and name.startswith("libtritonserver")), None)

    @cached_property
    def api_version(self) -> tuple[int, int] | None:
        """Of TRITONBACKEND's interface, as the server's own library says; None where it cannot be asked."""
        library = self.server_library
        if library is None:
            return None
        folders = [str(folder) for folder in (*self.library_path, library.parent)]
        env = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join([*folders, os.environ.get("LD_LIBRARY_PATH", "")]).strip(os.pathsep),
        }
        command = [sys.executable, "-I", "-c", _ASK_API, str(library)]
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        numbers = result.stdout.split()
        return (int(numbers[0]), int(numbers[1])) if result.returncode == 0 and len(numbers) == 2 else None

    @property
    def version_file(self) -> str | None:
        """ "2.65.0", as the file TRITON_VERSION says."""
        file = self.root / "TRITON_VERSION"
        return file.read_text().strip() if file.is_file() else None

    @property
    def version(self) -> str | None:
        """The same; in a container of Triton the environment says it too."""
        return self.version_file or os.environ.get(_VERSION_VARIABLE, "").strip() or None
