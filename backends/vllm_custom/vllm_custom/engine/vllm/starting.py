"""How the process of an engine core starts."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from vllm_custom.kernel.nodes import WAIT
from vllm_custom.runtime.new_process import WithoutCollections

# In the process that starts others; in a new one nothing has taken the place of vLLM's function.
_vllms_own: Callable[..., None] | None = None


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """vLLM's function of this name, which a new process finds here."""
    from vllm.v1.engine.core import EngineCoreProc

    prepare_core(kwargs.get("vllm_config"))
    own: Callable[..., None] = _vllms_own or EngineCoreProc.run_engine_core
    own(*args, **kwargs)


def prepare_core(vllm_config: Any) -> None:
    """In an engine core's process, before vLLM's own function."""
    keep_files_with_sockets()
    parallel: Any = getattr(vllm_config, "parallel_config", None)
    seconds = getattr(parallel, WAIT, None)
    if seconds and parallel.distributed_executor_backend == "ray":  # vLLM waits for Ray's nodes for half an hour
        ray_utils: Any = importlib.import_module("vllm.v1.executor.ray_utils")
        ray_utils.PG_WAIT_TIMEOUT = seconds


def keep_files_with_sockets() -> None:
    """In an engine core's process: the file by which workers find each other goes with the folder of its sockets.

    vLLM leaves it in the temporary folder. Versions before 0.30 have no such file.
    """
    folder = os.environ.get("VLLM_RPC_BASE_PATH")
    if folder is None:  # it could not be made
        return
    for name in ("multiproc_executor", "uniproc_executor"):
        with contextlib.suppress(ImportError):  # vLLM 0.11.0 has one of them elsewhere
            executor: Any = importlib.import_module(f"vllm.v1.executor.{name}")
            if hasattr(executor, "get_file_store_init_method"):
                executor.get_file_store_init_method = lambda: f"file://{folder}/vllm_dist_{uuid4().hex}"


def start_cores_quickly() -> None:
    """Engine cores that are started from now on import vLLM without collecting garbage meanwhile."""
    from vllm.v1.engine.core import EngineCoreProc

    global _vllms_own
    if _vllms_own is None:
        _vllms_own = EngineCoreProc.run_engine_core
        EngineCoreProc.run_engine_core = staticmethod(WithoutCollections(run_engine_core))
