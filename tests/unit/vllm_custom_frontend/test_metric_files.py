"""A disk without room costs no process of the frontend, as it did: writes into holes of mapped files end it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import errno, logging, os, sys
from vllm_custom_frontend.metrics import Metrics

def refuse(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

if sys.argv[1] == "full":
    os.posix_fallocate = refuse
metrics = Metrics(several=True)
metrics.requests.labels("/live", "200").inc(3)
metrics.seconds.labels("/live").observe(0.1)
print(metrics.text().decode())
"""


@pytest.mark.parametrize("disk", ["roomy", "full"])
def test_counts_are_in_files_that_have_all_their_room(tmp_path: Path, disk: str) -> None:
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM, disk]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = 'vllm_custom_frontend_requests_total{path="/live",status="200"} 3.0' in done.stdout
    files = [file.stat() for file in tmp_path.iterdir()]
    if disk == "full":
        assert (shown, files) == (False, [])
        assert "no space for a file of metrics" in done.stderr
    else:
        assert shown
        assert [file for file in files if file.st_blocks * 512 < file.st_size] == []
