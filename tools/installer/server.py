"""One tritonserver as a context manager: started, watched, drained and cleaned up after."""

import contextlib
import http.client
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tools.installer import ports, processes, stub_paths, triton_log, triton_options
from tools.installer.console import BuildError
from tools.installer.environment import Environment
from tools.installer.load_guard import LoadGuard
from tools.installer.paths import BACKEND_SOURCES, BACKENDS

# tritonserver waits this long for requests in flight before it gives up on them.
DRAIN_SECONDS = 30
# One that has not ended so long after it was told to hangs: Triton 24.10 may crash as it ends, and stand still in that.
END_SECONDS = DRAIN_SECONDS + 30.0
_POLL_SECONDS = 0.1
HUNG = "the load of a model hung (the machine may be too busy), and its process was ended"
# What a model that was killed leaves behind ends by itself, a little later than tritonserver.
_ORPHANS_SECONDS = 10.0
_KERNEL = BACKEND_SOURCES / "vllm_custom/vllm_custom/kernel"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Triton's own place for it


class ServerError(BuildError):
    """tritonserver ended, or a model did not load. The message says why, as far as its log does."""


class HungLoadError(ServerError):
    """The load of a model hung, and its process was ended. Another start may go well."""


def child_environment(environment: Environment, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables of tritonserver, of Triton's Python stub and of what vLLM starts."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    env["PATH"] = os.pathsep.join([str(environment.folder / "bin"), env.get("PATH", os.defpath)])
    env["VIRTUAL_ENV"] = str(environment.folder)
    # The stub was moved away from the libraries that its wheel brings, and must find this Python's own libpython before
    # the system's.
    libraries = [environment.library_folder, environment.site_packages / "nvidia_pytriton.libs"]
    inherited = env.get("LD_LIBRARY_PATH")
    env["LD_LIBRARY_PATH"] = os.pathsep.join(
        [str(path) for path in libraries if path] + ([inherited] if inherited else [])
    )
    # vLLM reads its own sources as text: with the C locale its children stop at the first character beyond ASCII.
    env["LC_ALL"] = "C.UTF-8"
    env.setdefault("VLLM_NO_USAGE_STATS", "1")
    env.setdefault("DO_NOT_TRACK", "1")
    if environment.hardware == "cpu":
        env.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        if not shutil.which(env.get("CXX", "g++")):
            # vLLM compiles a little even with enforce_eager (log probabilities): without a compiler its engine dies.
            env.setdefault("TORCHDYNAMO_DISABLE", "1")
    return {**env, **(overrides or {})}


def _remove_abandoned() -> None:
    """What guards that were ended by force leave of shared memory and of folders, by the backend's own rules."""
    for name in ("leftovers", "owned_folders"):
        if (spec := importlib.util.spec_from_file_location(name, _KERNEL / f"{name}.py")) and spec.loader:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.remove_abandoned()


class TritonServer:
    """A tritonserver on 127.0.0.1 (or another host) with ports of its own.

    Start it from a thread that lives as long as the server does: it gets SIGTERM when that thread ends. `models` names
    the models to load; None loads the whole repository. A port of 0 takes a free one. `log` gets everything that the
    server and its models print; without it they print to this process's own output.
    """

    def __init__(
        self,
        repository: Path,
        *,
        environment: Environment,
        models: Sequence[str] | None = None,
        backends: Path = BACKENDS,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        extra: Sequence[str] = (),
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        if not repository.is_dir():
            raise BuildError(f"the model repository {repository} does not exist", "give --model-repository a folder")
        if unusable := stub_paths.unusable([repository.resolve(), backends.resolve()]):
            raise BuildError(f"Triton cannot start models from {unusable[0]!r}", stub_paths.FIX)
        self.repository = repository
        self.environment = environment
        self.models = models
        self.backends = backends
        self.host = host
        self.ports: set[int] = set()
        self.http_port = ports.choose(host, http_port, "--http-port", self.ports)
        self.grpc_port = ports.choose(host, grpc_port, "--grpc-port", self.ports)
        self.metrics_port = ports.choose(host, metrics_port, "--metrics-port", self.ports)
        self.extra = list(extra)
        self.log = log
        self._env = dict(env or {})
        self._shared_memory_prefix = f"vllm_custom_{uuid.uuid4().hex[:12]}_"
        self._process: subprocess.Popen[bytes] | None = None
        self._family: set[processes.Process] = set()
        self._asked_to_stop = False
        self.was_ended_by_force = False

    # --- where it is -------------------------------------------------------------------------------------------------

    @property
    def http_url(self) -> str:
        return f"http://{self._reachable_host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """host:port, as tritonclient.grpc takes it."""
        return f"{self._reachable_host}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._reachable_host}:{self.metrics_port}/metrics"

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def returncode(self) -> int | None:
        """The exit status of tritonserver, None while it runs."""
        return self._running.poll()

    @property
    def command(self) -> list[str]:
        triton = self.environment.triton
        command = [str(triton / "bin/tritonserver"), f"--model-repository={self.repository.resolve()}"]
        command += [f"--backend-directory={self.backends.resolve()}", f"--cache-directory={triton / 'caches'}"]
        for service, port in (("http", self.http_port), ("grpc", self.grpc_port), ("metrics", self.metrics_port)):
            address = triton_options.listening(service, self.host)
            command += [f"--{service}-address={address}", f"--{service}-port={port}"]
        command += [f"--exit-timeout-secs={DRAIN_SECONDS}"]
        # A prefix of our own: what a killed server leaves in shared memory can be told from another server's.
        for backend in sorted(path.name for path in self.backends.iterdir()):
            command += [f"--backend-config={backend},shm-region-prefix-name={self._shared_memory_prefix}"]
        if self.models is not None:
            command += ["--model-control-mode=explicit", *(f"--load-model={name}" for name in self.models)]
        return command + self.extra

    # --- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> "TritonServer":
        """Start the process; `wait_ready` waits for the models."""
        if self._process is not None:
            raise RuntimeError("this server was started before; make a new one")
        processes.adopt_orphans()
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self.log.open("wb")) if self.log else None
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=child_environment(self.environment, self._env),
                # Its own group: Ctrl-C must reach us alone, and not vLLM's engine in the middle of a drain.
                preexec_fn=processes.end_with_parent(own_group=True),  # noqa: PLW1509 - calls bound before the fork
            )
        return self

    def wait_ready(self, timeout: float = 300.0) -> "TritonServer":
        """Returns when the server says that it is ready.

        Raises:
            HungLoadError: a load hung, and was ended.
            ServerError: the server ended for another reason, or was not ready in time.
        """
        deadline = time.monotonic() + timeout
        guard = LoadGuard(self.pid)
        while not self.is_ready():
            guard.look()
            if self.returncode is not None:
                if guard.ended:
                    raise HungLoadError(HUNG)
                raise ServerError(f"tritonserver ended with status {self.returncode}{self._from_log()}")
            if time.monotonic() > deadline:
                raise ServerError(f"tritonserver was not ready within {timeout:.0f} s{self._from_log()}")
            time.sleep(_POLL_SECONDS)
        self._look_at_family()
        return self

    def is_ready(self) -> bool:
        """Whether all models are loaded."""
        return self._says("/v2/health/ready")

    def is_live(self) -> bool:
        """Whether it answers at all, which tritonserver does only after the first loading of models."""
        return self._says("/v2/health/live")

    def ask_to_stop(self) -> None:
        """Let it drain: SIGTERM to tritonserver alone, which unloads the models, which stop their engines.

        One that is still loading would finish that first, and has nothing to drain: it is ended at once.
        """
        if self._process and self._process.poll() is None and not self._asked_to_stop:
            self._asked_to_stop = True
            self._look_at_family()
            self._process.send_signal(signal.SIGTERM if self.is_live() else signal.SIGKILL)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        if self._process:
            self._look_at_family()
            self._process.kill()
            processes.end(self._family, grace_seconds=0)

    def end(self) -> None:
        """End it at once, and make sure that nothing is left: for where no request is under way."""
        if self._process is not None:
            self.kill()
            self._process.wait()
            self.clean_up()

    def stop(self, timeout: float | None = None) -> list[int]:
        """Drain, then make sure that nothing is left. Returns the ids of processes that had to be ended for it.

        Args:
            timeout: seconds until tritonserver is ended by force; default: END_SECONDS.
        """
        if self._process is None:
            return []
        self.ask_to_stop()
        try:
            self._process.wait(END_SECONDS if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            self.was_ended_by_force = True
            self._look_at_family()
            self._process.kill()
            self._process.wait()
        except KeyboardInterrupt:  # asked twice
            self.kill()
            self.clean_up()
            raise
        return self.clean_up()

    def clean_up(self) -> list[int]:
        """After the end of tritonserver: end what it left running, and free its shared memory."""
        self._look_at_family()
        left = processes.end(self._family, grace_seconds=5.0, wait_seconds=_ORPHANS_SECONDS)
        for region in SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            region.unlink(missing_ok=True)
        _remove_abandoned()
        return left

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log and self.log.exists() else ""

    def __enter__(self) -> "TritonServer":
        """A server that is ready; one whose load hangs is started again, once."""
        try:
            return self._begun()
        except HungLoadError as error:
            print(f"{error}; starting again", file=sys.stderr, flush=True)
            self._process = None
            self._asked_to_stop = False
            return self._begun()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _begun(self) -> "TritonServer":
        self.start()
        try:
            return self.wait_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process

    @property
    def _reachable_host(self) -> str:
        return triton_options.reachable(self.host)

    def _says(self, path: str) -> bool:
        connection = http.client.HTTPConnection(self._reachable_host.strip("[]"), self.http_port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _look_at_family(self) -> None:
        """Remember who belongs to the server: once a parent is gone, that cannot be found out any more."""
        now = processes.snapshot()
        known = {process for process in self._family if now.get(process.pid) == process}
        found = known | processes.family(self.pid, now)
        for process in known:
            found |= processes.family(process.pid, now)
        self._family = found

    def _from_log(self) -> str:
        if self.log is None:
            return ""
        return f":\n{triton_log.load_failure(self.log_text())}\n  the whole log: {self.log}"
