"""Which unit tests share a process where there are several."""

from __future__ import annotations

import pytest

from tests.support.scheduling import needs_vllm, scope
from tools.installer.paths import CHECKOUT


@pytest.mark.parametrize(
    ("test", "group"),
    [
        ("tests/unit/vllm_custom/media/decoders/test_video.py::test_a[1]", "vllm"),
        ("tests/unit/vllm_custom/engine/host/test_attach.py::test_a", "vllm"),
        ("tests/unit/vllm_custom/sampling/test_sampling.py::TestA::test_a", "vllm"),
        ("tests/unit/vllm_custom/runtime/test_tuning.py::test_a", "tests/unit/vllm_custom/runtime/test_tuning.py"),
        ("tests/fuzz/test_fuzz.py::test_a[1]", "tests/fuzz/test_fuzz.py::test_a[1]"),
    ],
)
def test_groups(test: str, group: str) -> None:
    assert scope(test) == group


def test_most_files_do_without_vllm() -> None:
    files = list((CHECKOUT / "tests/unit").rglob("test_*.py"))
    assert 0 < sum(map(needs_vllm, files)) < len(files) / 3
