"""The frontend for OpenAI's API as a process, on a free port, and plain HTTP calls of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tools.installer import environment, ports
from tools.installer.paths import BACKEND_SOURCES, FRONTEND_SOURCES
from tools.installer.server import child_environment

HANG_SECONDS = 120


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        """The data of each server-sent event."""
        return [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]


class HttpApi:
    """An HTTP server with OpenAI's API; each call is a connection of its own."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.port = port
        self._tls = tls
        self._host = host

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path: str, **headers: str) -> HttpAnswer:
        return self.call("GET", path, None, **headers)

    def post(self, path: str, body: Any, **headers: str) -> HttpAnswer:
        """``body`` is sent as JSON, text and bytes as they are; ``_`` in names of headers stands for ``-``."""
        payload = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return self.call("POST", path, payload, **{"content_type": "application/json", **headers})

    def call(self, method: str, path: str, payload: str | bytes | None, **headers: str) -> HttpAnswer:
        with self.open(method, path, payload, **headers) as response:
            found = {name.lower(): value for name, value in response.getheaders()}
            return HttpAnswer(response.status, found, response.read())

    @contextmanager
    def open(
        self, method: str, path: str, payload: str | bytes | None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """The response as it begins; leaving early drops the connection."""
        connection = (
            http.client.HTTPSConnection(self._host, self.port, timeout=HANG_SECONDS, context=self._tls)
            if self._tls
            else http.client.HTTPConnection(self._host, self.port, timeout=HANG_SECONDS)
        )
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, payload, named)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def leave(self, path: str, payload: str) -> http.client.HTTPConnection:
        """Send a request and do not wait for its answer; closing the connection leaves."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)
        connection.request("POST", path, payload, {"content-type": "application/json"})
        return connection


class Frontend(HttpApi):
    """`python -m vllm_custom_frontend` in front of the given Triton servers, as a context manager."""

    module = "vllm_custom_frontend"

    def __init__(self, log: Path, *arguments: str, env: dict[str, str] | None = None, tls: Any = None) -> None:
        super().__init__(ports.choose("127.0.0.1", 0, "--port", set()), tls)
        self.log = log
        self._arguments = arguments
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Frontend:
        python = environment.current().folder / "bin/python"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(python), "-m", self.module, f"--port={self.port}", *self._arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._variables, **self._env},
            )
        deadline = time.monotonic() + HANG_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.terminate()
            self.wait()

    @property
    def _variables(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(FRONTEND_SOURCES)}

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status of the process, once it has ended."""
        return self.process.wait(HANG_SECONDS)

    def counters(self) -> dict[str, float]:
        """The samples of /metrics."""
        lines = self.get("/metrics").body.decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def _answers(self) -> bool:
        try:
            return self.get("/health").status in (200, 503)
        except (OSError, http.client.HTTPException):
            return False


class DirectServer(Frontend):
    """`python -m vllm_custom_direct` on the models of the given tritonserver."""

    module = "vllm_custom_direct"

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that serve."""
        return [
            child for child in psutil.Process(self.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE
        ]

    def is_ready(self) -> bool:
        """Whether it answers, and all models can be used."""
        try:
            return self.get("/health").status == 200
        except OSError:
            return False

    @property
    def _variables(self) -> dict[str, str]:
        sources = os.pathsep.join([str(BACKEND_SOURCES / "vllm_custom"), str(FRONTEND_SOURCES)])
        return child_environment(environment.current(), {"PYTHONPATH": sources})
