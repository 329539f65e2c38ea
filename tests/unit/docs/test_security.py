"""docs/security.md names tests and parameters that exist, and its figures are those of the code."""

from __future__ import annotations

import re

import pytest

from tools.installer.paths import CHECKOUT
from vllm_custom.contract.table import CONFIG_PARAMETERS
from vllm_custom.engine.vllm.constraints import client, grammars
from vllm_custom.kernel.text import MAX_MESSAGE_BYTES
from vllm_custom.media.decoders import confinement
from vllm_custom.media.workers import pool
from vllm_custom.observability import log

PAGE = (CHECKOUT / "docs" / "security.md").read_text(encoding="utf-8")
FOLDER = CHECKOUT / "tests/unit/vllm_custom"
UNIT_TESTS = sorted(FOLDER.rglob("test_*.py"))
UNITS = {"": 1, "s": 1, "bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
MEDIA_PARAMETERS = [
    row for row in CONFIG_PARAMETERS if row.name.startswith(("ALLOWED_", "MEDIA_", "IMAGE_", "VIDEO_", "AUDIO_"))
]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_every_test_exists(name: str) -> None:
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in UNIT_TESTS)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]*\btest_\w+\.py)`", PAGE))))
def test_every_file_exists(name: str) -> None:
    assert (CHECKOUT / name).is_file() or (FOLDER / name).is_file()


@pytest.mark.parametrize("name", [row.name for row in MEDIA_PARAMETERS])
def test_every_media_parameter_has_its_rule(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_defaults_are_those_of_the_table() -> None:
    """In rows of the form "what | 64 MiB | `MEDIA_MAX_BYTES` | test"; every limit of media has one."""
    rows = re.findall(r"\| ([\d,]+) ?(s|bytes|KiB|MiB|GiB)?(?: \([^|]*\))? \| `([A-Z_]+)` \|", PAGE)
    shown = {name: int(number.replace(",", "")) * UNITS[unit] for number, unit, name in rows}
    defaults = {row.name: row.default for row in CONFIG_PARAMETERS}
    assert shown == {name: defaults[name] for name in shown}
    assert shown.keys() >= {row.name for row in MEDIA_PARAMETERS if row.kind is int}


def test_the_fixed_limits_of_processes_are_those_of_the_code() -> None:
    numbers = (
        f"| {confinement._DESCRIPTORS}; 0; none |",
        f"| {grammars._MASK_SECONDS} s |",
        f"for up to {client._QUICK_SECONDS:g} s, and for longer | {client._QUICK_PLACES}, and 1 |",
        f"| {log._MAX_LINES:,} and {log._MAX_LINE_BYTES:,} |",
        f"| {MAX_MESSAGE_BYTES:,} |",
    )
    assert [number for number in numbers if number not in PAGE] == []
    assert pool._CPU_SECONDS_PER_SECOND == 4
    assert "| four times that, and 1 s |" in PAGE
