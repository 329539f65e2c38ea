"""Engines over several nodes: how long the first waits for the others, and what runs on those."""

from __future__ import annotations

import importlib
import inspect
import os
import threading
from collections.abc import Mapping
from typing import Any

from vllm_custom.engine.vllm.older import find
from vllm_custom.engine.vllm.starting import keep_files_with_sockets, start_cores_quickly
from vllm_custom.errors import ConfigError
from vllm_custom.kernel.nodes import PROGRAM, WAIT

# Where model.json does not say: as long as PyTorch waits for a process of NCCL.
_WAIT_SECONDS = 600
_STARTS = "wait_for_engine_startup"


def bound_waits() -> None:
    """Engines that this process starts wait for data-parallel engines on other nodes for a while, and not forever."""
    utils: Any = importlib.import_module("vllm.v1.engine.utils")
    own = getattr(utils, _STARTS, None)
    if own is None or hasattr(own, "__wrapped__"):
        return

    def waiting(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(own).bind(*args, **kwargs).arguments
        launch: Any = given.get("launch")
        if not hasattr(launch, "watched_frontend_processes"):  # an older vLLM
            return own(*args, **kwargs)
        seconds = float(getattr(given["parallel_config"], WAIT, None) or _WAIT_SECONDS)
        with _Missing(given["core_engines"], seconds) as missing:
            launch.watched_frontend_processes = [*launch.watched_frontend_processes, missing]
            try:
                return own(*args, **kwargs)
            except RuntimeError as error:
                raise missing.explained() or error from error

    vars(waiting)["__wrapped__"] = own
    setattr(utils, _STARTS, waiting)


class _Missing:
    """Interrupts vLLM's wait for the start of engines when those of other nodes have not come.

    To vLLM it is a process next to the engine cores that has ended.
    """

    name = "other nodes"
    exitcode = None

    def __init__(self, engines: Any, seconds: float) -> None:
        """
        Args:
            engines: vLLM's CoreEngines.
            seconds: how long those of other nodes have.
        """
        self._engines = engines
        self._seconds = seconds
        self._timer = threading.Timer(seconds, self._look)
        self._timer.daemon = True
        self._missing: list[int] = []
        self.sentinel = os.eventfd(0)

    def __enter__(self) -> _Missing:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        os.close(self.sentinel)

    def explained(self) -> ConfigError | None:
        """The error, where there is one."""
        if not self._missing:
            return None
        ranks = ", ".join(map(str, self._missing))
        return ConfigError(
            f"model.json: data_parallel_size: expected {len(self._engines)} engines, but rank {ranks} did not connect "
            f"within {self._seconds:g} seconds ({WAIT}): run `{PROGRAM}` on the other nodes, and let them reach the "
            "address of this one"
        )

    def _look(self) -> None:
        new = [engine for engine in self._engines if not engine.local and engine.state.name == "NEW"]
        self._missing = [int.from_bytes(engine.identity, "little") for engine in new]
        if new:
            os.eventfd_write(self.sentinel, 1)


def run_further_node(arguments: Mapping[str, Any]) -> None:
    """What ``vllm serve --headless`` does: run this node's part of an engine.

    It returns when that part has ended by itself.

    Args:
        arguments: of the engine, with the place of this node.

    Raises:
        SystemExit: on SIGTERM and SIGINT.
    """
    parser = find("FlexibleArgumentParser", "vllm.utils.argparse_utils", "vllm.utils")
    serve: Any = importlib.import_module("vllm.entrypoints.cli.serve")
    args = serve.make_arg_parser(parser()).parse_args([])
    for name, value in {**arguments, "headless": True, "api_server_count": 0}.items():
        setattr(args, name, value)
    keep_files_with_sockets()
    start_cores_quickly()
    serve.run_headless(args)
