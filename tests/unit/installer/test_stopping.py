"""`serve` and `supervise` end when they are told to, whatever tritonserver does, and leave no process behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support import fake_triton
from tests.support.processes import is_gone, wait_until
from tools.installer.environment import Environment
from tools.installer.paths import CHECKOUT

pytestmark = pytest.mark.slow

# What hangs is ended so soon; the child of the stand-in never ends by itself.
SERVE = """
import sys
from pathlib import Path
from tools.installer import serve, server
from tools.installer.environment import Environment
from tools.installer.server import TritonServer
serve.END_SECONDS = server.END_SECONDS = 1.0
server._ORPHANS_SECONDS = 0.2
folder, *extra = sys.argv[1:]
triton = TritonServer(
    Path(folder, "repository"),
    environment=Environment(Path(folder, "env-cpu-py311-0123456789ab"), "cpu"),
    backends=Path(folder, "backends"),
    extra=extra,
)
sys.exit(serve.run(triton, lambda server: print(server.pid, flush=True)))
"""
SUPERVISE = """
import sys
from tools.installer import supervise
supervise._GRACE_SECONDS = 1.0
sys.exit(supervise.run(sys.argv[1:]))
"""
# A tritonserver that says its process id, and stops itself when it is told to end.
HANGING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGSTOP))
print(os.getpid(), flush=True)
while True:
    time.sleep(0.1)
"""


def run(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT
    )


@pytest.fixture
def serve(environment: Environment, tmp_path: Path) -> Callable[[str], tuple[subprocess.Popen[str], list[int]]]:
    """`serve` on the stand-in, ready, and the processes of its server."""
    (environment.triton / "bin/tritonserver").write_text(fake_triton.program())
    (tmp_path / "repository").mkdir()
    (tmp_path / "backends/vllm_custom").mkdir(parents=True)

    def start(ends_by: str) -> tuple[subprocess.Popen[str], list[int]]:
        process = run(SERVE, str(tmp_path), f"--ends-by={ends_by}")
        assert process.stdout is not None
        said = ""
        while not said.strip().isdecimal():
            said = process.stdout.readline()
            assert said
        server = psutil.Process(int(said))
        wait_until(lambda: bool(server.children()))
        return process, [server.pid, *(child.pid for child in server.children())]

    return start


@pytest.mark.parametrize(
    ("ends_by", "words"), [("hanging", "ended by force"), ("crashing", "stopped"), ("draining", "stopped")]
)
def test_serve_ends_however_tritonserver_does(
    serve: Callable[[str], tuple[subprocess.Popen[str], list[int]]], ends_by: str, words: str
) -> None:
    """It waited forever where tritonserver stood still as it ended."""
    process, pids = serve(ends_by)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert words in errors
    assert ("by force" in errors) == (ends_by == "hanging")
    assert all(is_gone(pid) for pid in pids)


def test_serve_ends_a_tritonserver_that_stands_still(
    serve: Callable[[str], tuple[subprocess.Popen[str], list[int]]],
) -> None:
    process, pids = serve("draining")
    psutil.Process(pids[0]).suspend()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert all(is_gone(pid) for pid in pids)


def test_supervise_ends_a_tritonserver_that_hangs_as_it_ends(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text(f"#!{sys.executable}\n{HANGING}")
    program.chmod(0o755)
    process = run(SUPERVISE, str(program), "--exit-timeout-secs=0")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "ended by force" in errors
    assert is_gone(pid)
