"""Tests of what not every supported vLLM can do."""

from __future__ import annotations

import re

import pytest

from tools.installer.compatibility import LACKING
from vllm_custom.base_backend.loader import installed_vllm


def needs_vllm(since: str, what: str) -> pytest.MarkDecorator:
    """Leave a test out on an older vLLM; the table in docs/compatibility.md then says ``what`` is lacking."""
    return pytest.mark.skipif(_number(installed_vllm()) < _number(since), reason=f"{LACKING}{since}: {what}")


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
