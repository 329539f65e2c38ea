"""The folder that tritonserver takes its backends from, assembled from the environment and this checkout.

python/       libtriton_python.so, triton_python_backend_utils.py, the stub of the environment's Python
vllm/         the stand-in for the official backend, with a copy of vllm_custom's kernel
vllm_custom/  the product, with patches/ and the frontend next to its code
"""

import os
import shutil
import uuid
from pathlib import Path

from tools.installer.console import BuildError
from tools.installer.environment import Environment
from tools.installer.paths import BACKEND_SOURCES, BACKENDS, FRONTEND_SOURCES, PATCHES

_IGNORE = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache", ".DS_Store")
STUB = "triton_python_backend_stub"
# What both backends have in common, below their sources, and its place in the stand-in's folder.
KERNEL = Path("vllm_custom/vllm_custom/kernel")
KERNEL_COPY = Path("vllm_backend_lib/kernel")


def assemble(environment: Environment, target: Path = BACKENDS) -> Path:
    """Build the folder anew next to the target and put it in its place; a running server keeps what it has opened."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        _python_backend(environment, fresh / "python")
        for backend in sorted(path for path in BACKEND_SOURCES.iterdir() if (path / "model.py").is_file()):
            copy_source(backend.name, fresh)
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def copy_source(name: str, target: Path) -> Path:
    """A backend of this checkout into the backends folder ``target``, with what it has from elsewhere in it.

    vllm_custom brings the patches and the frontend along. The stand-in gets a kernel of its own: it may stay where
    vllm_custom is replaced by a later version, and both are then in one process.
    """
    folder = target / name
    shutil.copytree(BACKEND_SOURCES / name, folder, ignore=_IGNORE)
    if name == "vllm_custom":
        shutil.copytree(PATCHES, folder / "patches", ignore=_IGNORE, dirs_exist_ok=True)
        shutil.copytree(FRONTEND_SOURCES, folder, ignore=_IGNORE, dirs_exist_ok=True)
    if name == "vllm":
        shutil.copytree(BACKEND_SOURCES / KERNEL, folder / KERNEL_COPY, ignore=_IGNORE, dirs_exist_ok=True)
    return folder


def copy_linked(source: Path, target: Path) -> None:
    """A copy that shares its files with ``source`` where both lie on one disk."""
    shutil.copytree(source, target, copy_function=_link_or_copy, symlinks=True)


def _python_backend(environment: Environment, folder: Path) -> None:
    source = environment.triton / "backends/python"
    stub = environment.triton / "python_backend_stubs" / environment.python_minor / STUB
    if not stub.is_file():
        have = sorted(path.name for path in (environment.triton / "python_backend_stubs").glob("3.*"))
        raise BuildError(
            f"nvidia-pytriton has no stub for Python {environment.python_minor}, only for {', '.join(have)}",
            "give --python one of these",
        )
    folder.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        _link_or_copy(source / name, folder / name)
    _link_or_copy(stub, folder / STUB)
    (folder / STUB).chmod(0o755)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    """A hard link where both lie on one disk: 30 MB less to write each time."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _swap(fresh: Path, target: Path) -> None:
    """Two renames: there is no single one that replaces a folder that is not empty."""
    old = target.parent / f".{target.name}-old-{uuid.uuid4().hex[:8]}"
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
