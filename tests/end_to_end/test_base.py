"""What is said of the base class, and what it reports itself: on whatever base the tests run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.openai_cases import MODEL
from tests.support.servers import wait_until
from tests.support.superset import GENERATED
from tools.installer.paths import BACKEND_SOURCES
from tools.installer.server import TritonServer
from vllm_custom.base_backend.releases import fingerprint

BASE = Path(os.environ.get("VLLM_BACKEND_DIR") or BACKEND_SOURCES / "vllm")
LOG_LINE = re.compile(r"\[vllm_custom\] base: (.+) \(sha ([0-9a-f]{16})\), vLLM (\S+), patches: \[(.*?)\]")

pytestmark = [pytest.mark.any_base, pytest.mark.usefixtures("superset")]


def test_the_log_says_what_the_base_is(
    triton: TritonServer, record_testsuite_property: Callable[[str, object], None]
) -> None:
    line = LOG_LINE.search(triton.log_text())
    assert line, triton.log_text()[-2000:]
    assert line[2] == fingerprint(BASE)
    for name, value in zip(("base", "hash", "vllm", "patches"), line.groups(), strict=True):
        record_testsuite_property(name, value)


def test_the_bases_metrics_count(client: Client) -> None:
    before = client.metrics().get(GENERATED, 0)
    client.generate(MODEL, text_input="2+3=", max_tokens=4, ignore_eos=True, temperature=0)
    wait_until(lambda: client.metrics().get(GENERATED, 0) >= before + 4)
