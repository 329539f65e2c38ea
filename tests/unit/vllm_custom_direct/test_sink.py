"""What the backend's code reports to Triton's metrics, in the files of prometheus_client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.metrics import CacheSizeRecord, DecodeRecord, MediaMetrics
from vllm_custom.triton.metrics import RequestMetrics
from vllm_custom_direct import sink
from vllm_custom_frontend.metrics import Metrics

shown = Metrics(several=True)
for model in ("a", "b"):
    labels = {"model": model, "version": "1"}
    requests, media = (kind(sink, labels, print) for kind in (RequestMetrics, MediaMetrics))
    requests.observe(None)
    requests.observe(InvalidRequestError("x"))
    media.observe(DecodeRecord("image", 0.02))
    media.observe(CacheSizeRecord(70))
    requests.close()
    media.close()
shown.open.inc()
print(shown.text().decode())
"""


def test_two_processes_count_together(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", PROGRAM]
    printed = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    ][-1]
    for line in (
        'vllm_custom:requests_success_total{model="a",version="1"} 2.0',
        'vllm_custom:requests_failed_total{code="INVALID_ARG",model="b",version="1"} 2.0',
        'vllm_custom:media_decode_seconds_count{modality="image",model="a",version="1"} 2.0',
        'vllm_custom:media_cache_bytes{model="b",version="1"} 70.0',
        "vllm_custom_frontend_open_requests 2.0",
    ):
        assert line in printed, printed
