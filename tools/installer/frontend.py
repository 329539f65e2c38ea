"""The frontend for OpenAI's API as a child process next to tritonserver."""

import os
import signal
import subprocess
from collections.abc import Collection

from tools.installer import ports, processes
from tools.installer.environment import Environment
from tools.installer.paths import BACKEND_SOURCES, FRONTEND_SOURCES
from tools.installer.server import TritonServer, child_environment

# Tells the models how many direct servers use each of their engines.
DIRECT_VARIABLE = "VLLM_CUSTOM_OPENAI_DIRECT"
# Where a direct server finds its modules.
DIRECT_SOURCES = os.pathsep.join([str(BACKEND_SOURCES / "vllm_custom"), str(FRONTEND_SOURCES)])


class Frontend:
    """`python -m vllm_custom_frontend` for one Triton server. Start it from a thread that lives as long as it does."""

    # Whether it needs the models of tritonserver to the end of its own requests.
    ends_first = False

    def __init__(
        self,
        environment: Environment,
        host: str,
        port: int,
        triton: str,
        workers: int = 1,
        taken: Collection[int] = (),
    ) -> None:
        """A port of 0 takes a free one; `triton` is the gRPC address, and `taken` are ports that others will have."""
        self._environment = environment
        self.host = host
        self.port = ports.choose(host, port, "--openai-port", set(taken))
        self._triton = triton
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What OpenAI's clients take as base_url."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    @property
    def command(self) -> list[str]:
        several = [f"--workers={self._workers}"] if self._workers > 1 else []
        return self._command("vllm_custom_frontend", f"--triton={self._triton}", *several)

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs or has not been started."""
        return self._process.poll() if self._process else None

    def _command(self, module: str, *arguments: str) -> list[str]:
        python = str(self._environment.folder / "bin/python")
        return [python, "-m", module, f"--host={self.host}", f"--port={self.port}", *arguments]

    @property
    def variables(self) -> dict[str, str]:
        """Its environment."""
        return {**os.environ, "PYTHONPATH": str(FRONTEND_SOURCES)}

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            env=self.variables,
            # Its own group: Ctrl-C reaches us alone.
            preexec_fn=processes.end_with_parent(own_group=True),  # noqa: PLW1509 - calls bound before the fork
        )

    def ask_to_stop(self) -> None:
        """Let it drain: no new connections, open requests end."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        if self._process and self._process.poll() is None:
            self._process.kill()

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


class DirectServer(Frontend):
    """`python -m vllm_custom_direct` on the models of one tritonserver, which has to be started before."""

    ends_first = True

    def __init__(self, environment: Environment, host: str, port: int, server: TritonServer, workers: int) -> None:
        """A port of 0 takes a free one; `workers` is how many processes serve it."""
        super().__init__(environment, host, port, server.grpc_url, workers, server.ports)
        self._server = server

    @property
    def command(self) -> list[str]:
        server = (f"--server={self._server.pid}", f"--triton-http={self._server.http_url}")
        return self._command("vllm_custom_direct", *server, f"--workers={self._workers}")

    @property
    def variables(self) -> dict[str, str]:
        """As the processes of the models have it."""
        return child_environment(self._environment, {"PYTHONPATH": DIRECT_SOURCES})
