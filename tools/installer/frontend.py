"""The frontend for OpenAI's API as a child process beside tritonserver."""

import os
import signal
import subprocess

from tools.installer import ports, processes
from tools.installer.environment import Environment
from tools.installer.paths import FRONTEND_SOURCES

_MODULE = "vllm_custom_frontend"


class Frontend:
    """`python -m vllm_custom_frontend` for one Triton server. Start it from a thread that lives as long as it does."""

    def __init__(self, environment: Environment, host: str, port: int, triton: str) -> None:
        """A port of 0 takes a free one; `triton` is the gRPC address."""
        self._environment = environment
        self.host = host
        self.port = ports.choose(host, port, "--openai-port", set())
        self._triton = triton
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What OpenAI's clients take as base_url."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    @property
    def command(self) -> list[str]:
        python = str(self._environment.folder / "bin/python")
        return [python, "-m", _MODULE, f"--host={self.host}", f"--port={self.port}", f"--triton={self._triton}"]

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs or has not been started."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(FRONTEND_SOURCES)},
            # Its own group: Ctrl-C reaches us alone.
            preexec_fn=processes.end_with_parent(own_group=True),  # noqa: PLW1509 - calls bound before the fork
        )

    def ask_to_stop(self) -> None:
        """Let it drain: no new connections, open requests end."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask, wait, and end it by force if it does not."""
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
