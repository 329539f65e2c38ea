"""Two programs under supervisord: what ends both, and with which status."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import is_gone, wait_until
from tools.installer import ports, together
from tools.installer.paths import CHECKOUT

PROGRAM = """#!/bin/sh
echo "options: $*"
exec sleep 1000
"""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A stand-in for tritonserver, and the frontend; both run."""
    home = tmp_path / "50% of it"
    home.mkdir()
    program = home / "triton server"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    taken: set[int] = set()
    http, grpc, metrics, openai = (ports.choose("127.0.0.1", 0, "", taken) for _ in range(4))
    command = [sys.executable, str(CHECKOUT / "build.py"), "supervise", str(program), f"--openai-port={openai}"]
    command += ["--openai-host=127.0.0.1", "--", f"--http-port={http}", f"--grpc-port={grpc}"]
    command += [f"--metrics-port={metrics}", "--exit-timeout-secs=0", "--model-repository=a; b #c 'd'"]
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(home)})
    try:
        wait_until(lambda: both_run((tmp_path / "log").read_text()) or process.poll() is not None, 60)
        yield process
    finally:
        process.kill()
        process.wait()


def both_run(log: str) -> bool:
    return "Uvicorn running" in log and "options: --http-port" in log


@pytest.mark.slow
@pytest.mark.parametrize("ends_by", ["being told", "itself"])
def test_they_end_together(supervised: "subprocess.Popen[bytes]", tmp_path: Path, ends_by: str) -> None:
    assert "--model-repository=a; b #c 'd'" in (tmp_path / "log").read_text()
    family = psutil.Process(supervised.pid).children(recursive=True)
    (program,) = [one for one in family if one.name() == "sleep"]
    if ends_by == "itself":
        program.kill()
    else:
        supervised.send_signal(signal.SIGTERM)
    assert supervised.wait(60) == (ends_by == "itself")
    wait_until(lambda: all(is_gone(one.pid) for one in family))
    assert sorted(path.name for path in (tmp_path / "50% of it").iterdir()) == ["triton server"]


# In the place of both programs: says with what it was started, and takes a while to end.
RECORDING = """
import os, signal, sys, time
def note(line):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{name} {line}\\n")
def end(number, frame):
    note("is told to stop")
    time.sleep(0.5)
    note("ends")
    os._exit(0)
name = "tritonserver" if "--http-port=1" in sys.argv else "direct"
signal.signal(signal.SIGTERM, end)
note(f"starts {os.environ.get('VLLM_CUSTOM_OPENAI_DIRECT')} {' '.join(sys.argv[1:])}")
time.sleep(60)
"""
SUPERVISE = """
import sys
from tools.installer import together
together.DIRECT_SOURCES = sys.argv[1]
sys.exit(together.run([sys.argv[2], "--http-port=1"], "127.0.0.1", 2, ["--keep-alive=65"], direct=3))
"""


def test_a_direct_server_drains_before_the_models_that_it_uses_end(tmp_path: Path) -> None:
    (tmp_path / "vllm_custom_direct.py").write_text(RECORDING)
    program = tmp_path / "tritonserver"
    program.write_text(f"#!{sys.executable}\n{RECORDING}")
    program.chmod(0o755)
    notes = tmp_path / "notes"
    notes.touch()
    env = {name: value for name, value in os.environ.items() if name != "VLLM_CUSTOM_OPENAI_DIRECT"}
    command = [sys.executable, "-c", SUPERVISE, str(tmp_path), str(program)]
    process = subprocess.Popen(command, env={**env, "NOTES": str(notes)}, cwd=CHECKOUT)
    try:
        wait_until(lambda: notes.read_text().count("starts") == 2 or process.poll() is not None, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    *started, first, second, third, fourth = notes.read_text().splitlines()
    options = f"--workers=3 --server={process.pid} --triton-http=http://127.0.0.1:1"
    assert sorted(started) == [
        f"direct starts None {options} --host=127.0.0.1 --port=2 --keep-alive=65",
        "tritonserver starts 3 --http-port=1",
    ]
    assert [first, second] == ["direct is told to stop", "direct ends"]
    assert [third, fourth] == ["tritonserver is told to stop", "tritonserver ends"]


@pytest.mark.parametrize(
    ("event", "process", "ends"),
    [
        ("PROCESS_STATE_EXITED", "tritonserver", True),
        ("PROCESS_STATE_EXITED", "frontend", False),
        ("PROCESS_STATE_FATAL", "frontend", True),
    ],
)
def test_what_ends_both(event: str, process: str, ends: bool) -> None:
    assert together.ends_all(event, process) is ends
