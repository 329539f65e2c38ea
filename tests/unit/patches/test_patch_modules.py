"""Every module in patches/ has what the loader asks of it, and is described in patches/README.md."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

PATCHES = Path(__file__).resolve().parents[3] / "patches"
NAMES = sorted(path.stem for path in PATCHES.glob("*.py") if not path.stem.startswith("_"))


@pytest.fixture(params=NAMES)
def patch(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"patches.{request.param}")


def test_it_has_the_form_of_a_patch(patch: ModuleType) -> None:
    assert patch.__name__ == f"patches.{patch.NAME}"
    assert isinstance(patch.BEFORE_VLLM, bool)
    assert list(inspect.signature(patch.applies).parameters) == ["upstream", "vllm_version"]
    assert not inspect.signature(patch.apply).parameters


def test_it_says_what_breaks_without_it(patch: ModuleType) -> None:
    assert "What breaks: " in (patch.__doc__ or "")


def test_the_readmes_table_names_each_patch_once() -> None:
    rows = [line.split("`")[1] for line in (PATCHES / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == NAMES
