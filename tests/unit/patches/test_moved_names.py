"""The patch that puts back the names which later vLLM versions moved, in processes of their own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from patches import moved_names

CHECKOUT = Path(__file__).resolve().parents[3]
# What r25.10 to r26.01 of the official backend import.
IMPORTS = (
    "from vllm.inputs.data import TokensPrompt",
    "from vllm.v1.metrics.loggers import build_1_2_5_buckets",
)

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM")


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)


@needs_vllm
def test_without_it_the_names_are_absent() -> None:
    attempts = "".join(f"try:\n  {line}\nexcept ImportError as e:\n  print(type(e).__name__)\n" for line in IMPORTS)
    result = python(attempts)
    assert result.stdout.splitlines()[-2:] == ["ModuleNotFoundError", "ImportError"], result.stderr


@needs_vllm
def test_with_it_the_names_are_those_of_today() -> None:
    result = python(
        "from patches import moved_names as p; assert p.applies('official r26.01', ''); p.apply(); p.apply()\n"
        f"{IMPORTS[0]}\n{IMPORTS[1]}\n"
        "import vllm.inputs; assert TokensPrompt is vllm.inputs.TokensPrompt\n"
        "print(build_1_2_5_buckets(20), p.applies('official r26.01', ''))"
    )
    assert result.stdout.splitlines()[-1:] == ["[1, 2, 5, 10, 20] False"], result.stderr


def test_our_stand_in_needs_no_old_names() -> None:
    assert moved_names.applies("stand-in", "0.32.0") is False


@pytest.mark.parametrize(("old_module", "expected"), [(None, True), (object(), False)])
def test_it_is_for_versions_without_the_old_module(
    old_module: object, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: old_module)
    assert moved_names.applies("official r26.01", "any") is expected
