"""vllm_custom on the vLLM backend in VLLM_BACKEND_DIR: the shared server tests, and what concerns the base itself.

`build.py compatibility` runs this on one official release after the other and writes docs/compatibility.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.test_bad_requests import (
    found,
    mistakes,
    test_bad_request,
    test_good_requests_beside_them_are_not_disturbed,
    test_they_are_counted_by_code,
)
from tests.end_to_end.test_policies import (
    models,
    pictures,
    test_bls,
    test_error_codes,
    test_http_infer_as_json,
    test_many_requests_at_once_are_batched_and_answered_each,
    test_one_request_with_several_rows,
    test_plain_infer_with_raw_bytes,
    test_streaming_is_refused_and_says_why,
    test_the_completed_configuration_keeps_what_the_user_wrote,
)
from tests.end_to_end.test_requests import (
    TestGenerate,
    TestGrpc,
    TestMessages,
    TestOutputs,
    TestParameters,
    TestStream,
)
from tests.support.client import Client
from tests.support.server_fixtures import wait_until
from tools.installer.server import TritonServer

__all__ = [
    "TestGenerate",
    "TestGrpc",
    "TestMessages",
    "TestOutputs",
    "TestParameters",
    "TestStream",
    "found",
    "mistakes",
    "models",
    "pictures",
    "test_bad_request",
    "test_bls",
    "test_error_codes",
    "test_good_requests_beside_them_are_not_disturbed",
    "test_http_infer_as_json",
    "test_many_requests_at_once_are_batched_and_answered_each",
    "test_one_request_with_several_rows",
    "test_plain_infer_with_raw_bytes",
    "test_streaming_is_refused_and_says_why",
    "test_the_completed_configuration_keeps_what_the_user_wrote",
    "test_they_are_counted_by_code",
]

if "VLLM_BACKEND_DIR" not in os.environ:
    pytest.skip(
        "NOT RUN: set VLLM_BACKEND_DIR to the official backend's folder with model.py to test on it",
        allow_module_level=True,
    )

BASE = Path(os.environ["VLLM_BACKEND_DIR"])
MODEL = "shapes_vl"
LOG_LINE = re.compile(r"\[vllm_custom\] base: (.+) \(sha ([0-9a-f]{16})\), vLLM (\S+), patches: \[(.*?)\]")

pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.usefixtures("shapes_vl")]


def test_the_log_says_what_the_base_is(
    triton: TritonServer, record_testsuite_property: Callable[[str, object], None]
) -> None:
    line = LOG_LINE.search(triton.log_text())
    assert line, triton.log_text()[-2000:]
    from vllm_custom.base_backend.releases import fingerprint

    assert line[2] == fingerprint(BASE)
    for name, value in zip(("base", "hash", "vllm", "patches"), line.groups(), strict=True):
        record_testsuite_property(name, value)


def test_the_bases_metrics_count(client: Client) -> None:
    def generated() -> float:
        counts = client.metrics().items()
        return sum(count for name, count in counts if name.startswith("vllm:generation_tokens_total"))

    before = generated()
    client.generate(MODEL, text_input="2+3=", max_tokens=4, ignore_eos=True, temperature=0)
    wait_until(lambda: generated() >= before + 4)
