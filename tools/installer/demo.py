"""`demo`: send a real server an image that it has never seen, and check its description."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.installer.console import BuildError, Progress
from tools.installer.environment import Environment
from tools.installer.paths import BUILD, CHECKOUT, DEFAULT_REPOSITORY
from tools.installer.serve import DEFAULT_MODEL
from tools.installer.server import TritonServer, child_environment

FOLDER = BUILD / "demo"
# vLLM's start takes 25 to 40 s on two cores; a busy machine may need several times that.
_READY_SECONDS = 400.0
# On a CPU vLLM gives even a single worker a process of its own, which imports all of vLLM once more: ten seconds. With
# this it runs in the engine's process, as on one GPU.
_ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def run(environment: Environment, progress: Progress, seed: int, extra: Sequence[str]) -> int:
    """Serve on free ports, ask, show, stop. Returns 0 only where both answers are right."""
    if not (DEFAULT_REPOSITORY / DEFAULT_MODEL / "config.pbtxt").is_file():
        raise BuildError(
            f"the model {DEFAULT_MODEL} is not in {DEFAULT_REPOSITORY}", "restore model_repository/ from the repository"
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / "tritonserver.log"
    progress.step(f"starting tritonserver with {DEFAULT_MODEL} (its log: {_relative(log)})")
    server = TritonServer(
        DEFAULT_REPOSITORY,
        environment=environment,
        models=[DEFAULT_MODEL],
        log=log,
        extra=extra,
        env={name: value for name, value in _ONE_PROCESS.items() if name not in os.environ},
    )
    try:
        server.start().wait_ready(_READY_SECONDS)
        progress.step(f"ready on {server.http_url}")
        status = _ask(environment, server, seed)
    finally:
        # No request is under way: to unload the model would only take time.
        server.end()
    progress.step("stopped")
    return status


def _ask(environment: Environment, server: TritonServer, seed: int) -> int:
    """The client draws with Pillow, so it runs on the environment's Python."""
    command = [str(environment.python), "-m", "tools.installer.demo_client", "--http-url", server.http_url]
    command += ["--folder", str(FOLDER), "--seed", str(seed)]
    if sys.stdout.isatty():
        command.append("--show")
    return subprocess.run(command, cwd=CHECKOUT, env=child_environment(environment), check=False).returncode


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
