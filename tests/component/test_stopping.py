"""`serve` in front of a real tritonserver ends when it is told to, whatever that does, and leaves nothing behind."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support import null_engine
from tests.support.client import Client
from tests.support.null_engine import Records
from tests.support.processes import is_gone, wait_until
from tests.support.servers import NULL_BASE, SHAPES_VL, Repository, parameter
from tools.installer import backends, environment
from tools.installer.paths import CHECKOUT

MODEL = "stopping"
HANG_SECONDS = 120
SHARED_MEMORY = Path("/dev/shm")
# What hangs is ended so soon; what drains takes longer where the machine is busy.
PATIENCE_SECONDS = {"draining": 60.0, "standing still": 2.0, "crashing": 60.0}
SERVE = """
import os, sys
from pathlib import Path
from tools.installer import environment, serve, server
from tools.installer.server import TritonServer
serve.END_SECONDS = server.END_SECONDS = float(sys.argv[1])
repository, backends, log = map(Path, sys.argv[2:])
triton = TritonServer(repository, environment=environment.current(), models=["*"], backends=backends, log=log)
sys.exit(serve.run(triton, lambda server: print(server.pid, server.http_url, server.metrics_url, flush=True)))
"""


@dataclass(frozen=True)
class Serving:
    """`serve` with a model that holds an adapter's copy and a stream."""

    process: subprocess.Popen[str]
    triton: psutil.Process
    client: Client
    ports: tuple[int, ...]

    @property
    def family(self) -> list[psutil.Process]:
        """tritonserver, and all that it has started."""
        return [self.triton, *self.triton.children(recursive=True)]


def shared_memory() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()}


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The temporary folder of the server."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def serving(ends_by: str, tmp_path: Path, temporary: Path) -> Iterator[Serving]:
    made = backends.assemble(environment.current(), tmp_path / "backends")
    backends.copy_linked(NULL_BASE, made / NULL_BASE.name)
    adapters = tmp_path / "adapters"
    shutil.copytree(SHAPES_VL / "1/lora/zh", adapters / "zh")
    repository = Repository(tmp_path / "models")
    config = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n' + parameter(
        "LORA_DIR", adapters
    )
    repository.add(MODEL, config, repository.shapes_args(enable_lora=True, max_loras=2, max_lora_rank=16))
    variables = null_engine.environment(os.environ.get("VLLM_BACKEND_DIR"), made, Records(tmp_path / "records.jsonl"))
    arguments = (PATIENCE_SECONDS[ends_by], repository.folder, made, tmp_path / "server.log")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, **variables, "TMPDIR": str(temporary)},
    )
    try:
        assert process.stdout is not None
        pid, http_url, metrics_url = process.stdout.readline().split()
        triton = psutil.Process(int(pid))
        ports = tuple(one.laddr.port for one in triton.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
        yield Serving(process, triton, Client(http_url, metrics_url), ports)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("ends_by", ["draining", "standing still", "crashing"])
def test_serve_ends_and_nothing_is_left(serving: Serving, temporary: Path, ends_by: str) -> None:
    before = shared_memory()
    with serving.client.open_stream(MODEL, text_input="Hello", max_tokens=7000, lora_name="zh") as events:
        assert "error" not in next(events)
        assert list(temporary.glob("vllm_custom_lora_*/*"))
        family = serving.family
        assert len(family) > 1
        used = set[str]().union(*map(mapped, family))
        held = {name for name in before if str(SHARED_MEMORY / name) in used}
        assert held
        serving.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Signal (15) received" in (temporary.parent / "server.log").read_text(), HANG_SECONDS)
        if ends_by == "standing still":
            serving.triton.suspend()
        if ends_by == "crashing":
            serving.triton.send_signal(signal.SIGSEGV)
        if ends_by != "draining":
            _, said = serving.process.communicate(timeout=HANG_SECONDS)
    if ends_by == "draining":
        _, said = serving.process.communicate(timeout=HANG_SECONDS)
    assert serving.process.returncode == 0, said
    assert ("by force" in said) == (ends_by == "standing still")
    assert [one for one in family if not is_gone(one.pid)] == []
    assert not held & shared_memory()
    # The first is PyTorch's own, which keeps it for the next one.
    assert {path.name for path in temporary.iterdir()} <= {f"torchinductor_{getpass.getuser()}"}
    listening = {one.laddr.port for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    assert serving.ports
    assert not listening & set(serving.ports)


def mapped(process: psutil.Process) -> set[str]:
    """Files that a process has in its memory."""
    try:
        return {one.path for one in process.memory_maps()}
    except psutil.Error:
        return set()
