"""Processes of a model with several instances: its stubs, and the host of the engine that they share."""

from __future__ import annotations

from pathlib import Path

import psutil

from tools.installer.server import TritonServer
from vllm_custom.engine.host.folders import runtime_folder


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stubs(triton: TritonServer, model: str) -> list[psutil.Process]:
    """Of the model's instances, as far as they live."""
    children = psutil.Process(triton.pid).children()
    return [child for child in children if is_alive(child) and f" {model}_0_" in " ".join(child.cmdline())]


def hosts(program: str) -> list[psutil.Process]:
    """Of this machine, by the module that they run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:3] == ["-m", program] and is_alive(process):
            found.append(process)
    return found


def family(process: psutil.Process) -> list[psutil.Process]:
    """It, and all below it."""
    return [process, *process.children(recursive=True)]


def folders(model: str) -> list[Path]:
    """Of the model's engines."""
    try:
        return [path for path in runtime_folder().iterdir() if path.name.startswith(f"{model}-")]
    except OSError:  # the last engine has taken it away
        return []
