"""tritonserver and the OpenAI frontend of a container under supervisord.

Both are told to drain when the container is stopped. A frontend that ends is started again; where tritonserver has
ended, or the frontend cannot start, both end, and the container with them.
"""

import importlib
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.installer import supervise, triton_options
from tools.installer.console import BuildError
from tools.installer.paths import CHECKOUT, FRONTEND_SOURCES, PROGRAM

_TRITON, _FRONTEND = "tritonserver", "frontend"
# After the time that each of the two takes by itself.
_GRACE_SECONDS = 15
_FAILED = "failed"
_CONFIGURATION = """\
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={folder}/pid
childlogdir={folder}

[group:server]
programs={triton},{frontend}

[program:{triton}]
command={shell}/{triton}
autorestart=false
startsecs=0
{common}

[program:{frontend}]
command={shell}/{frontend}
autorestart=true
startsecs=5
startretries=5
{common}

[eventlistener:ends]
command={shell}/listener
events=PROCESS_STATE_EXITED,PROCESS_STATE_FATAL
stderr_logfile=/dev/stderr
stderr_logfile_maxbytes=0
"""
_COMMON = """\
stopwaitsecs={patience}
killasgroup=true
stdout_logfile=/dev/stdout
stdout_logfile_maxbytes=0
stderr_logfile=/dev/stderr
stderr_logfile_maxbytes=0"""


def run(command: Sequence[str], host: str, port: int, options: Sequence[str] = ()) -> int:
    """Run both until told to stop, or until one of them cannot go on. Returns 0, or 1 where they had to end.

    Args:
        command: tritonserver and its options.
        host: address for the frontend to listen on.
        port: of the frontend.
        options: further ones of the frontend.

    Raises:
        BuildError: supervisord is not installed here.
    """
    try:
        supervisord: Any = importlib.import_module("supervisor.supervisord")
    except ImportError as error:
        raise BuildError("--openai-port needs the package supervisor", "pip install supervisor") from error
    with tempfile.TemporaryDirectory(prefix="vllm_custom_together_") as made:
        folder = Path(made)
        triton = [sys.executable, str(CHECKOUT / PROGRAM), "supervise", command[0], "--", *command[1:]]
        address = f"{triton_options.reached(command, 'grpc')}:{triton_options.value(command, 'grpc-port', '8001')}"
        frontend = [sys.executable, "-m", "vllm_custom_frontend", f"--host={host}", f"--port={port}"]
        frontend += [f"--triton={address}", *options]
        # As scripts: what supervisord reads as a command has signs of its own, such as % and ;.
        _write(folder / _TRITON, triton)
        _write(folder / _FRONTEND, frontend, FRONTEND_SOURCES)
        _write(folder / "listener", [sys.executable, "-m", "tools.installer.together", made], CHECKOUT)
        file = folder / "supervisord.conf"
        file.write_text(_configuration(folder, command))
        supervisord.main(["-c", str(file)])
        return int((folder / _FAILED).exists())


def _write(file: Path, command: Sequence[str], path: Path | None = None) -> None:
    """A script that becomes ``command``; ``path`` is where its Python finds modules."""
    variable = f"PYTHONPATH={shlex.quote(str(path))} " if path else ""
    file.write_text(f"{variable}exec {shlex.join(command)}\n")


def _configuration(folder: Path, command: Sequence[str]) -> str:
    patience = round(supervise.patience(command)) + _GRACE_SECONDS
    common = _COMMON.format(patience=patience)
    shown = str(folder).replace("%", "%%")
    shell = f"/bin/sh {shlex.quote(shown)}"
    return _CONFIGURATION.format(folder=shown, shell=shell, triton=_TRITON, frontend=_FRONTEND, common=common)


def ends_all(event: str, process: str) -> bool:
    """Whether what happened to a process is the end of both."""
    return event == "PROCESS_STATE_FATAL" or (event == "PROCESS_STATE_EXITED" and process == _TRITON)


def _listen(folder: Path) -> None:
    """What supervisord runs as the listener for its events."""
    utilities: Any = importlib.import_module("supervisor.childutils")
    while True:
        headers, payload = utilities.listener.wait()
        event, process = headers["eventname"], utilities.get_headers(payload)["processname"]
        if ends_all(event, process):
            print(f"[vllm_custom] {process} has ended; stopping", file=sys.stderr, flush=True)
            (folder / _FAILED).touch()
            os.kill(os.getppid(), signal.SIGTERM)
        utilities.listener.ok()


if __name__ == "__main__":
    _listen(Path(sys.argv[1]))
