"""`vllm serve` as a process: what the OpenAI endpoint has to be equal to."""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import one_process
from tests.support.frontend_process import HttpApi
from tools.installer import environment, ports, processes
from tools.installer.server import child_environment

# The command `vllm serve` cannot tell its own version in vLLM's CPU build; this is the same server.
_MODULE = "vllm.entrypoints.openai.api_server"
_START_SECONDS = 240


@contextmanager
def vllm_serve(log: Path, *arguments: str) -> Iterator[HttpApi]:
    """A server that is ready; ended with all that it started."""
    found = environment.current()
    port = ports.choose("127.0.0.1", 0, "--port", set())
    command = [str(found.folder / "bin/python"), "-m", _MODULE, "--host=127.0.0.1", f"--port={port}", *arguments]
    env = child_environment(found, one_process.ENVIRONMENT)
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True)
    api = HttpApi(port)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(api):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield api
    finally:
        family = processes.family(server.pid, processes.snapshot())
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        processes.end(family, grace_seconds=5.0)


def _is_ready(api: HttpApi) -> bool:
    try:
        return api.get("/health").status == 200
    except (OSError, http.client.HTTPException):
        return False
