"""tritonserver and the OpenAI server of a container, which is the frontend or the direct server, under supervisord.

Both are told to drain when the container is stopped; the direct server, which uses the engines of the models, before
tritonserver. An OpenAI server that ends is started again; where tritonserver has ended, or the OpenAI server cannot
start, both end, and the container with them.
"""

import contextlib
import importlib
import os
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.installer import supervise, triton_options
from tools.installer.console import BuildError
from tools.installer.frontend import DIRECT_SOURCES, DIRECT_VARIABLE
from tools.installer.paths import CHECKOUT, FRONTEND_SOURCES, PROGRAM

_TRITON, _FRONTEND, _DIRECT = "tritonserver", "frontend", "direct"
# After the time that each of the two takes by itself.
_GRACE_SECONDS = 15
_CONFIGURATION = """\
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={folder}/pid
childlogdir={folder}
{group}
[program:{triton}]
command={shell}/{triton}
priority=1
autorestart=false
startsecs=0
{common}

[program:{openai}]
command={shell}/{openai}
priority=2
autorestart=true
startsecs=5
startretries=5
{common}
"""
# What is in one group is told to stop at the same time; else what has the higher priority ends first.
_GROUP = """
[group:server]
programs={triton},{openai}
"""
_COMMON = """\
stopwaitsecs={patience}
killasgroup=true
redirect_stderr=true
stdout_logfile=/dev/stdout
stdout_logfile_maxbytes=0"""


def run(command: Sequence[str], host: str, port: int, options: Sequence[str] = (), direct: int = 0) -> int:
    """Run both until told to stop, or until one of them cannot go on. Returns 0, or 1 where they had to end.

    Args:
        command: tritonserver and its options.
        host: address for the OpenAI server to listen on.
        port: of the OpenAI server.
        options: further ones of it.
        direct: processes of the direct server; 0 for the frontend.

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
        name, openai = (_DIRECT, _direct(command, direct)) if direct else (_FRONTEND, _frontend(command))
        openai = [sys.executable, "-m", *openai, f"--host={host}", f"--port={port}", *options]
        # As scripts: what supervisord reads as a command has signs of its own, such as % and ;.
        _write(folder / _TRITON, triton, {DIRECT_VARIABLE: str(direct)} if direct else {})
        _write(folder / name, openai, {"PYTHONPATH": DIRECT_SOURCES if direct else str(FRONTEND_SOURCES)})
        file = folder / "supervisord.conf"
        file.write_text(_configuration(folder, command, name))
        with _own_output():
            return _supervise(supervisord, file)


def _frontend(command: Sequence[str]) -> list[str]:
    address = f"{triton_options.reached(command, 'grpc')}:{triton_options.value(command, 'grpc-port', '8001')}"
    return ["vllm_custom_frontend", f"--triton={address}"]


def _direct(command: Sequence[str], workers: int) -> list[str]:
    # This process starts what starts tritonserver.
    direct = ["vllm_custom_direct", f"--workers={workers}", f"--server={os.getpid()}"]
    http = triton_options.http_url(command)
    return [*direct, f"--triton-http={http}"] if http else direct


def _supervise(supervisord: Any, file: Path) -> int:
    """As supervisord's own main function, but for what ends it."""
    events: Any = importlib.import_module("supervisor.events")
    options = supervisord.ServerOptions()
    options.realize(["-c", str(file)], doc=supervisord.__doc__)
    options.first, options.test = True, False
    above = supervisord.Supervisor(options)
    failed: list[str] = []

    def note(event: Any) -> None:
        name = event.process.config.name
        if ends_all(events.getEventNameByType(type(event)), name):
            failed.append(name)
            print(f"[vllm_custom] {name} has ended; stopping", file=sys.stderr, flush=True)
            options.mood = supervisord.SupervisorStates.SHUTDOWN

    def run_forever() -> None:
        events.subscribe(events.ProcessStateEvent, note)  # earlier ones are forgotten at the start
        supervise_forever()

    supervise_forever, above.runforever = above.runforever, run_forever
    with contextlib.suppress(supervisord.asyncore.ExitNow):  # how it says that all have ended
        above.main()
    options.close_logger()
    return int(bool(failed))


@contextlib.contextmanager
def _own_output() -> Iterator[None]:
    """Outputs that this user may open by their names, as supervisord does; those of a container may be another's."""
    outside = [os.dup(number) for number in (1, 2)]
    read_end, write_end = os.pipe()
    for number in (1, 2):
        os.dup2(write_end, number)
    os.close(write_end)

    def copy() -> None:
        while data := os.read(read_end, 65536):
            with contextlib.suppress(OSError):  # it is not read any more
                while data:
                    data = data[os.write(outside[0], data) :]

    copier = threading.Thread(target=copy, name="vllm_custom_output", daemon=True)
    copier.start()
    try:
        yield
    finally:
        for number, descriptor in zip((1, 2), outside, strict=True):
            os.dup2(descriptor, number)
        # A process that got away may still have the pipe.
        copier.join(1.0)


def _write(file: Path, command: Sequence[str], variables: Mapping[str, str]) -> None:
    """A script that becomes ``command``, with these variables in its environment."""
    given = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    file.write_text(" ".join([*given, "exec", shlex.join(command)]) + "\n")


def _configuration(folder: Path, command: Sequence[str], openai: str) -> str:
    patience = round(supervise.patience(command)) + _GRACE_SECONDS
    common = _COMMON.format(patience=patience)
    shown = str(folder).replace("%", "%%")
    shell = f"/bin/sh {shlex.quote(shown)}"
    names = {"triton": _TRITON, "openai": openai}
    group = _GROUP.format(**names) if openai == _FRONTEND else ""
    return _CONFIGURATION.format(folder=shown, shell=shell, common=common, group=group, **names)


def ends_all(event: str, process: str) -> bool:
    """Whether what happened to a process is the end of both."""
    return event == "PROCESS_STATE_FATAL" or (event == "PROCESS_STATE_EXITED" and process == _TRITON)
