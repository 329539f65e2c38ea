"""Several processes behind one port: one that is killed is replaced, they count together, and end together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.addresses import has_ipv6
from tests.support.frontend_process import HttpApi
from tests.support.processes import is_gone, wait_until
from tools.installer import ports
from vllm_custom_frontend.metrics_folder import metrics_folder
from vllm_custom_frontend.workers import bound_socket

pytestmark = pytest.mark.slow
WORKERS = 2
# A process with a folder, and one below it.
ABOVE = """
import subprocess, time
from vllm_custom_frontend.metrics_folder import metrics_folder
with metrics_folder() as folder:
    below = subprocess.Popen(["sleep", "60"], pass_fds=[folder.descriptor], stdout=subprocess.DEVNULL)
    print(folder.path, below.pid, flush=True)
    time.sleep(60)
"""
FOLDER = re.compile(r"PROMETHEUS_MULTIPROC_DIR=(\S+)")


class Server(HttpApi):
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        super().__init__(port)
        self.process = process

    def who(self) -> int:
        return int(self.get("/").json)

    def counted(self) -> int:
        """How many requests have begun, as /metrics says."""
        return int(float(self.get("/metrics").body.decode().rpartition("disconnects_total ")[2].split()[0]))

    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def all_answer(self) -> bool:
        """Whether each worker answers; Linux chooses one for each connection."""
        try:
            return {self.who() for _ in range(20)} == set(self.workers()) and len(self.workers()) == WORKERS
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = ports.choose("127.0.0.1", 0, "--port", set())
    arguments = [f"--port={port}", f"--workers={WORKERS}", "--drain-seconds=10"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-m", "tests.support.fake_worker", *arguments], env=environment) as process:
        made = Server(process, port)
        wait_until(made.all_answer)
        yield made
        below = made.workers() if process.poll() is None else []
        process.kill()
    for worker in below:  # they notice that they are alone
        wait_until(lambda worker=worker: is_gone(worker))


def test_a_killed_worker_is_replaced_while_the_others_serve(server: Server) -> None:
    before = server.workers()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: before[0] not in server.workers())
    assert {server.who() for _ in range(5)} <= {before[1], *server.workers()}
    wait_until(server.all_answer)
    assert before[1] in server.workers()


def test_what_they_count_is_one(server: Server) -> None:
    before = server.counted()
    for _ in range(10):
        server.who()
    os.kill(server.workers()[0], signal.SIGKILL)
    wait_until(server.all_answer)
    assert server.counted() >= before + 10 + 20, "also what one has counted that is gone"


def test_sigterm_lets_requests_end_and_leaves_nothing(server: Server) -> None:
    answers: list[int] = []
    before = server.counted()
    calls = [threading.Thread(target=lambda: answers.append(server.get("/?seconds=1.5").status)) for _ in range(6)]
    for call in calls:
        call.start()
    below = server.workers()
    found = [FOLDER.search(Path(f"/proc/{worker}/environ").read_text().replace("\0", "\n")) for worker in below]
    wait_until(lambda: server.counted() == before + len(calls))
    server.process.terminate()
    for call in calls:
        call.join(20)
    assert answers == [200] * len(calls)
    assert server.process.wait(20) == 0
    assert all(map(is_gone, below))
    assert found[0] is not None
    assert not Path(found[0][1]).exists()


def test_folders_of_killed_processes_go_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """77 of them were once found after a day of tests."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", ABOVE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as above:
        assert above.stdout is not None
        name, below = above.stdout.readline().split()
        above.kill()
    with metrics_folder():
        assert Path(name).exists(), "the process below it still counts"
    os.kill(int(below), signal.SIGKILL)
    wait_until(lambda: is_gone(int(below)))
    with metrics_folder() as following:
        assert list(tmp_path.iterdir()) == [following.path]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not has_ipv6(), reason="not run: this machine has no IPv6")
def test_workers_listen_at_an_ipv6_address() -> None:
    with bound_socket("::1", 0) as first, bound_socket("::1", first.getsockname()[1]) as second:
        assert first.getsockname()[:2] == second.getsockname()[:2] == ("::1", first.getsockname()[1])


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "tests.support.fake_worker", f"--port={port}", f"--workers={WORKERS}"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in ended.stderr
