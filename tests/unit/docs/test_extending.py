"""docs/extending.md names files that exist, and names that are in them."""

from __future__ import annotations

import re

import pytest

from tools.installer.paths import CHECKOUT

PACKAGE = CHECKOUT / "backends/vllm_custom/vllm_custom"
SECTIONS = (CHECKOUT / "docs/extending.md").read_text(encoding="utf-8").split("\n## ")[1:]
# Parts of names, and what is not ours or in no one file.
ELSEWHERE = {"MAX_", "_SECONDS", "SamplingParams", "PoolingParams", "IMAGE_FORMATS", "openai_request"}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0].replace(" ", "_"))
def test_what_a_recipe_names_exists(section: str) -> None:
    places = re.findall(r"`([\w/]+/[\w/.]+)`", section)
    found = [path for name in places for path in (PACKAGE / name, CHECKOUT / name) if path.exists()]
    assert len(found) == len(places), places
    names = set(re.findall(r"`(\w*[A-Z_]\w*)`", section)) - ELSEWHERE
    text = "".join(path.read_text(encoding="utf-8") for path in found if path.is_file())
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()
