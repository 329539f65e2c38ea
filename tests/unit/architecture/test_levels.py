"""Where tests lie, and what they may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.installer.paths import BACKEND_SOURCES, CHECKOUT, FRONTEND_SOURCES

TESTS = CHECKOUT / "tests"
PACKAGES = [
    BACKEND_SOURCES / "vllm/vllm_backend_lib",
    BACKEND_SOURCES / "vllm_custom/vllm_custom",
    *(folder.parent for folder in FRONTEND_SOURCES.glob("*/__init__.py")),
]
SHARED = ("tests.support", "tests.fuzz")


def imported(path: Path) -> Iterator[str]:
    """Modules of tests."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            # ``from tests import support``
            names = [f"tests.{alias.name}" for alias in node.names] if node.module == "tests" else [node.module or ""]
        yield from (name for name in names if name.partition(".")[0] == "tests")


def test_what_several_tests_use_is_in_the_packages_for_it() -> None:
    """Nothing is imported from a conftest.py or from another test."""
    found = [
        f"{path.relative_to(CHECKOUT)} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in imported(path)
        if not name.startswith(SHARED)
    ]
    assert found == []


def test_folders_of_unit_tests_mirror_the_packages() -> None:
    """Each has tests of its own, and no folder is left of a package that has gone."""
    for package in PACKAGES:
        folder = TESTS / "unit" / package.name
        assert list(folder.rglob("test_*.py")), folder
        folders = {path.parent.relative_to(folder) for path in folder.rglob("test_*.py")}
        assert {path for path in folders if not (package / path).is_dir()} == set(), folder
