"""Import torchvision with a CPU build of torch.

What breaks: PyPI's torchvision (0.28, and every release since 0.16) is a CUDA build. Its compiled operators do not load
with a CPU build of torch. `import torchvision` then ends with "operator torchvision::nms does not exist", because
torchvision._meta_registrations describes operators that do not exist. transformers' Qwen2-VL processor imports it.

The cure: define the schemas of nms and qnms just before that module is imported. torchvision's Python transforms then
work, and nothing that vLLM uses calls the compiled operators.

It runs at interpreter start (from a .pth file), so it imports nothing heavy until torchvision itself is imported.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing itself is not imported: this runs whenever the environment's Python starts.
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME = "torchvision_ops"
BEFORE_VLLM = True

_TARGET = "torchvision._meta_registrations"
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torch.library drops its definitions with the object that holds them.
_kept: list[object] = []


def applies(upstream: str, vllm_version: str) -> bool:
    """Only with a CPU build; a CUDA build of torch loads torchvision's own operators."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def apply() -> None:
    """Watch for the import of torchvision's registrations. Costs nothing until then."""
    if _TARGET not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Defines the operators when the target is asked for, leaves, and lets the others find the module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == _TARGET:
            # A new list: the import system is walking through the old one, and would skip the next finder.
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
            _define_missing()
        return None


def _define_missing() -> None:
    import torch

    if not torch.__version__.endswith("+cpu"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator, schema in _SCHEMAS.items():
        # Absent is the normal case here; torchvision's own, where it did load, stays.
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + schema)
    _kept.append(library)
