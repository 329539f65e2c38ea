"""Processes of a model with several instances: its stubs, and the host of the engine that they share."""

from __future__ import annotations

from pathlib import Path

import psutil

from tools.installer.server import TritonServer
from vllm_custom.engine.host.folders import runtime_folder
from vllm_custom.engine.vllm.host import PROGRAM

# So much of a model's name is in the name of its engine's folder.
_NAME_CHARACTERS = 10


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stubs(triton: TritonServer, model: str) -> list[psutil.Process]:
    """Of the model's instances, as far as they live."""
    children = psutil.Process(triton.pid).children()
    return [child for child in children if is_alive(child) and f" {model}_0_" in " ".join(child.cmdline())]


def hosts(triton: TritonServer, model: str, program: str) -> list[psutil.Process]:
    """Of the model's engines in this server, by the module that they run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        match process.info["cmdline"]:
            case [_, "-m", name, folder, _, server, *_] if name == program and is_alive(process):
                if server == str(triton.pid) and _is_of(Path(folder), model):
                    found.append(process)
    return found


def engine_cores(triton: TritonServer, model: str) -> list[psutil.Process]:
    """vLLM's own, below the model's stubs and below the hosts of its engines."""
    above = stubs(triton, model) + hosts(triton, model, PROGRAM)
    below = [child for process in above for child in process.children(recursive=True)]
    return [process for process in dict.fromkeys(below) if is_alive(process) and "EngineCor" in process.name()]


def family(process: psutil.Process) -> list[psutil.Process]:
    """It, and all below it."""
    return [process, *process.children(recursive=True)]


def folders(model: str) -> list[Path]:
    """Of the model's engines."""
    try:
        return [path for path in runtime_folder().iterdir() if _is_of(path, model)]
    except OSError:  # the last engine has taken it away
        return []


def _is_of(folder: Path, model: str) -> bool:
    return folder.name.startswith(f"{model[:_NAME_CHARACTERS]}-")
