"""Tests of what not every supported vLLM can do."""

from __future__ import annotations

import re

import pytest

from tools.installer.compatibility import LACKING
from vllm_custom.base_backend.loader import installed_vllm


def at_least(version: str) -> bool:
    """Whether the vLLM that runs is of this version or a later one."""
    return _number(installed_vllm()) >= _number(version)


def needs_vllm(since: str, what: str) -> pytest.MarkDecorator:
    """Leave a test out on an older vLLM; the table in docs/compatibility.md then says ``what`` is lacking."""
    return pytest.mark.skipif(not at_least(since), reason=f"{LACKING}{since}: {what}")


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
