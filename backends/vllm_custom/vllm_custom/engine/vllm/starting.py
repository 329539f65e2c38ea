"""How the processes of an engine start: its core, and the core's workers where they have processes of their own."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

from vllm_custom.engine.vllm.start_failures import expect_failure, note_failure
from vllm_custom.kernel.nodes import WAIT
from vllm_custom.runtime.new_process import WithoutCollections

# In the process that starts others; in a new one nothing has taken the place of vLLM's functions.
_vllms_core: Callable[..., None] | None = None
_vllms_worker: Callable[..., None] | None = None


def start_cores_quickly() -> None:
    """Engine cores that are started from now on import vLLM without collecting garbage, and say why they end."""
    from vllm.v1.engine.core import EngineCoreProc

    global _vllms_core
    if _vllms_core is None:
        _vllms_core = EngineCoreProc.run_engine_core
        EngineCoreProc.run_engine_core = staticmethod(WithoutCollections(run_engine_core))
    expect_failure()


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """vLLM's function of this name, which a new process finds here."""
    from vllm.v1.engine.core import EngineCoreProc

    own: Callable[..., None] = _vllms_core or EngineCoreProc.run_engine_core
    with core_process(kwargs.get("vllm_config")):
        own(*args, **kwargs)


@contextlib.contextmanager
def core_process(vllm_config: Any) -> Iterator[None]:
    """In an engine core's process, around vLLM's program."""
    note_failure()
    keep_files_with_sockets()
    _bound_wait_for_ray(vllm_config)
    _start_workers_quickly()
    with _quick_end():
        yield


@contextlib.contextmanager
def _quick_end() -> Iterator[None]:
    """Leave the memory to the system.

    An interpreter that ends looks for cycles in all that is not frozen, for longer than the five seconds after which
    vLLM kills it.
    """
    try:
        yield
    finally:
        gc.freeze()


def run_worker(*args: Any, **kwargs: Any) -> None:
    """vLLM's ``WorkerProc.worker_main``."""
    from vllm.v1.executor.multiproc_executor import WorkerProc

    own: Callable[..., None] = _vllms_worker or WorkerProc.worker_main
    note_failure()
    with _quick_end():
        own(*args, **kwargs)


def _start_workers_quickly() -> None:
    from vllm.v1.executor.multiproc_executor import WorkerProc

    global _vllms_worker
    if _vllms_worker is None:
        _vllms_worker = WorkerProc.worker_main
        WorkerProc.worker_main = staticmethod(WithoutCollections(run_worker))


def _bound_wait_for_ray(vllm_config: Any) -> None:
    """vLLM waits for Ray's nodes for half an hour."""
    parallel: Any = getattr(vllm_config, "parallel_config", None)
    seconds = getattr(parallel, WAIT, None)
    if seconds and parallel.distributed_executor_backend == "ray":
        ray_utils: Any = importlib.import_module("vllm.v1.executor.ray_utils")
        ray_utils.PG_WAIT_TIMEOUT = seconds


def keep_files_with_sockets() -> None:
    """In an engine core's process: the file by which workers find each other lies in the folder of its sockets.

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
