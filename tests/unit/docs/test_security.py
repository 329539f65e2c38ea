"""docs/security.md names tests and parameters that exist."""

from __future__ import annotations

import re

import pytest

from tools.installer.paths import CHECKOUT
from vllm_custom.contract import CONFIG_PARAMETERS

PAGE = (CHECKOUT / "docs" / "security.md").read_text(encoding="utf-8")
UNIT_TESTS = CHECKOUT / "tests" / "unit" / "vllm_custom"
MEDIA_PARAMETERS = [
    row for row in CONFIG_PARAMETERS if row.name.startswith(("ALLOWED_", "MEDIA_", "IMAGE_", "VIDEO_", "AUDIO_"))
]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_every_test_exists(name: str) -> None:
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in UNIT_TESTS.glob("test_*.py"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+\.py)`", PAGE))))
def test_every_file_exists(name: str) -> None:
    assert (UNIT_TESTS / name).is_file()


@pytest.mark.parametrize("name", [row.name for row in MEDIA_PARAMETERS if row.name != "MEDIA_CONCURRENCY"])
def test_every_media_parameter_has_its_rule(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_defaults_are_those_of_the_table() -> None:
    defaults = {row.name: row.default for row in MEDIA_PARAMETERS}
    assert defaults["MEDIA_MAX_BYTES"] == 64 * 1024 * 1024
    assert "64 MiB | `MEDIA_MAX_BYTES`" in PAGE
    for name, shown in (("MEDIA_FETCH_TIMEOUT_SECONDS", "{} s ("), ("MEDIA_FETCH_CONCURRENCY", "| {} | `MEDIA_FETCH")):
        assert shown.format(defaults[name]) in PAGE
    for name in ("IMAGE_MAX_PIXELS", "VIDEO_MAX_FRAMES", "VIDEO_MAX_PIXELS", "AUDIO_MAX_SECONDS"):
        assert f"| {defaults[name]:,} | `{name}`" in PAGE
