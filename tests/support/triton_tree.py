"""An installation of Triton laid out as in its containers, from the binaries of the environment's own wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from tools.installer.backends import STUB, copy_linked
from tools.installer.environment import Environment


def make_tree(environment: Environment, root: Path, version: str = "2.51.0") -> Path:
    """bin, lib, caches, backends/python and TRITON_VERSION below ``root``."""
    wheel = environment.triton
    (root / "backends").mkdir(parents=True)
    copy_linked(wheel / "bin", root / "bin")
    copy_linked(wheel / "caches", root / "caches")
    copy_linked(environment.site_packages / "nvidia_pytriton.libs", root / "lib")
    copy_linked(wheel / "backends/python", root / "backends/python")
    stub = wheel / "python_backend_stubs" / environment.python_minor / STUB
    shutil.copy2(stub, root / "backends/python" / STUB)
    (root / "TRITON_VERSION").write_text(f"{version}\n")
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every path with its mode, time of change and content (a folder has none, a link its target)."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = bytes(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[path.relative_to(root).as_posix()] = (status.st_mode, status.st_mtime_ns, content)
    return found
