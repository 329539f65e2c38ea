"""docs/threat-model.md: each way in has guards and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.installer.paths import CHECKOUT

PAGE = (CHECKOUT / "docs" / "threat-model.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and "::" in line
]
PACKAGE = CHECKOUT / "backends/vllm_custom/vllm_custom"
IDS = [row[0] for row in ROWS]


def module(name: str) -> Path:
    return CHECKOUT / name if name.startswith("frontend/") else PACKAGE / name


def test_there_are_rows() -> None:
    assert len(ROWS) > 25
    lines = [line for line in PAGE.splitlines() if line.startswith("|") and line.count("|") == 5]
    assert len([line for line in lines if "---" not in line and "| guard |" not in line]) == len(ROWS), (
        "one has no test"
    )


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_its_guards_exist(row: list[str]) -> None:
    guards = re.findall(r"`([\w/]+\.py)`", row[2])
    assert guards
    assert [name for name in guards if not module(name).is_file()] == []


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_its_tests_exist(row: list[str]) -> None:
    tests = re.findall(r"`([\w/]+\.py)::(\w+)`", row[3])
    assert tests
    for path, name in tests:
        (found,) = [
            folder / path for folder in (CHECKOUT / "tests/unit", CHECKOUT / "tests") if (folder / path).is_file()
        ]
        assert re.search(rf"^ *(?:async )?def {name}\(", found.read_text(encoding="utf-8"), re.MULTILINE), name
