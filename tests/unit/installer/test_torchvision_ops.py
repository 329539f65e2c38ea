"""The patch that lets torchvision be imported beside a CPU build of torch, in processes of their own."""

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

from patches import torchvision_ops
from tools.installer.paths import CHECKOUT

pytestmark = pytest.mark.slow

needs_cpu_torch = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None or "+cpu" not in importlib.metadata.version("torch"),
    reason="needs a CPU build of torch beside PyPI's torchvision",
)
# Takes away the hook that build.py has put into site-packages.
WITHOUT_HOOK = "import sys; sys.meta_path = [f for f in sys.meta_path if 'vllm_custom' not in type(f).__module__]; "


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)


@needs_cpu_torch
def test_without_it_the_import_fails() -> None:
    result = python(WITHOUT_HOOK + "import torchvision")
    assert result.returncode
    assert "operator torchvision::nms does not exist" in result.stderr


@needs_cpu_torch
def test_with_it_torchvision_and_its_transforms_work() -> None:
    result = python(
        WITHOUT_HOOK + "from patches import torchvision_ops as patch; patch.apply(); patch.apply()\n"
        "import torch; from torchvision.transforms.v2 import functional\n"
        "print(tuple(functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape))\n"
        "print([finder for finder in sys.meta_path if isinstance(finder, patch._Finder)])"
    )
    assert result.stdout == "(3, 4, 4)\n[]\n", result.stderr


def test_it_imports_nothing_heavy_at_start() -> None:
    result = python(
        WITHOUT_HOOK + "before = set(sys.modules); from patches import torchvision_ops as p; p.apply(); "
        "print(sorted(set(sys.modules) - before))"
    )
    assert "torch'" not in result.stdout
    assert "'typing'" not in result.stdout


@pytest.mark.parametrize(("version", "expected"), [("2.13.0+cpu", True), ("2.13.0+cu130", False), ("2.13.0", False)])
def test_it_is_for_cpu_builds_only(version: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert torchvision_ops.applies("any", "any") is expected
