"""`supervise --openai-port`, which an image runs: tritonserver and the frontend under supervisord, as another user."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.echo_model import CONFIG, MODEL
from tests.support.frontend_process import HANG_SECONDS, HttpAnswer, HttpApi
from tests.support.processes import is_gone, wait_until
from tests.support.servers import Repository
from tools.installer import backends, environment, ports
from tools.installer.image import ImageOptions, health_check
from tools.installer.paths import CHECKOUT
from tools.installer.server import TritonServer, child_environment

CHAT = "/v1/chat/completions"
KEY = "se%cret; #1"


@dataclass(frozen=True)
class Container:
    """What runs in one."""

    process: subprocess.Popen[bytes]
    api: HttpApi
    log: Path
    health: list[str]

    def of(self, name: str, words: str = "") -> psutil.Process:
        """The process below it of this name, with these words in its command."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        (found,) = [one for one in children if one.name().startswith(name) and words in " ".join(one.cmdline())]
        return found

    @property
    def triton(self) -> psutil.Process:
        return self.of("tritonserver")

    @property
    def frontend(self) -> psutil.Process:
        return self.of("python", "-m vllm_custom_frontend")

    def is_healthy(self) -> bool:
        return subprocess.run(self.health, capture_output=True, check=False).returncode == 0

    def chat(self, **body: object) -> HttpAnswer:
        return self.api.post(CHAT, {"model": "echo", **body}, authorization=f"Bearer {KEY}")


@contextmanager
def running(folder: Path) -> Iterator[Container]:
    """It has become healthy. Paths of ours have a space; Triton starts models by a shell, and takes none."""
    home = folder / "with spaces"
    home.mkdir()
    repository = Repository(folder / "models")
    repository.add("echo", CONFIG, None, model__py=MODEL)
    secret = home / "secret"
    secret.write_text(f"# of the frontend\n{KEY}\n")
    found = environment.current()
    made = backends.assemble(found, folder / "backends")
    triton = TritonServer(repository.folder, environment=found, models=["*"], backends=made)
    port = ports.choose("127.0.0.1", 0, "--openai-port", set(triton.ports))
    (home / "temporary").mkdir()
    program, *options = triton.command
    command = [sys.executable, str(CHECKOUT / "build.py"), "supervise", program, f"--openai-port={port}"]
    command += ["--openai-host=127.0.0.1", "--openai-options=--header-timeout=20 --cors-origin='https://a b'"]
    variables = {"TMPDIR": str(home / "temporary"), "VLLM_CUSTOM_API_KEYS_FILE": str(secret)}
    health = health_check(ImageOptions(openai_port=port)).replace(":8000", f":{triton.http_port}")
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--", *options], stdout=log, stderr=log, env=child_environment(found, variables)
        )
    container = Container(process, HttpApi(port), home / "log", [sys.executable, "-c", health])
    try:
        wait_until(lambda: container.is_healthy() or process.poll() is not None, HANG_SECONDS)
        yield container
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(HANG_SECONDS)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with running(tmp_path) as made:
        assert made.process.poll() is None, made.log.read_text()
        yield made


def test_both_serve_and_both_drain_when_it_is_told_to_stop(container: Container) -> None:
    assert container.chat().status == 200
    assert container.api.post(CHAT, {"model": "echo"}).status == 401
    triton, frontend = container.triton, container.frontend
    frontend.kill()
    wait_until(lambda: is_gone(frontend.pid), HANG_SECONDS)
    wait_until(container.is_healthy, HANG_SECONDS)
    assert container.triton == triton, "only the frontend was started again"
    answers: list[HttpAnswer] = []
    asked = threading.Thread(target=lambda: answers.append(container.chat(stream=True, events=30, pause=0.4)))
    asked.start()
    wait_until(
        lambda: "vllm_custom_frontend_open_requests 2.0" in container.api.get("/metrics").body.decode(), HANG_SECONDS
    )
    family = psutil.Process(container.process.pid).children(recursive=True)
    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(HANG_SECONDS) == 0
    asked.join()
    assert (answers[0].status, answers[0].events[-1]) == (200, "[DONE]")
    assert [one for one in family if not is_gone(one.pid)] == []
    assert list((container.log.parent / "temporary").iterdir()) == []


def test_a_tritonserver_that_crashes_ends_both(container: Container) -> None:
    family = psutil.Process(container.process.pid).children(recursive=True)
    container.triton.send_signal(signal.SIGSEGV)
    assert container.process.wait(HANG_SECONDS) == 1
    wait_until(lambda: all(is_gone(one.pid) for one in family), HANG_SECONDS)
    assert "tritonserver has ended; stopping" in container.log.read_text()


def test_ports_are_looked_at_before_the_start(tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKOUT / "build.py"), "supervise", "no-such-program", "--openai-port=20999"]
    refused = subprocess.run([*command, "--", "--http-port=20999"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "port 20999 is given twice" in refused.stderr
