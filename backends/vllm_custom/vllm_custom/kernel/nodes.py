"""Engines over several nodes, as model.json describes them: tritonserver's own node is the first."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError, shorten
from .model_files import ENGINE_ARGS_FILE, size_of

# How long the first node waits for the others, where model.json says it.
WAIT = "distributed_timeout_seconds"
PROGRAM = "python -m vllm_custom.node"
# vLLM's own defaults.
_MASTER_PORT, _DATA_PARALLEL_PORT = 29501, 29550
_BACKENDS = ("distributed_executor_backend", "data_parallel_backend")


@dataclass(frozen=True)
class Nodes:
    """
    Attributes:
        count: of nodes, the first included.
        argument: of model.json, which says so.
        host: name or address at which the others find the first.
        port: at which they do.
    """

    count: int
    argument: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"an engine on {self.count} nodes ({self.argument} in {ENGINE_ARGS_FILE})"

    def explained(self, error: Exception) -> ConfigError:
        """Why such an engine may not have started, next to what ``error`` says."""
        return ConfigError(
            f"{error}; it is {self}: one that is missing is waited for as long as {WAIT} says (with NCCL 600 seconds "
            f"unless set); `{PROGRAM}` runs the others, with the same {ENGINE_ARGS_FILE} and files"
        )


def ray_argument(arguments: Mapping[str, Any]) -> str | None:
    """The one that has Ray start a part of the engine, on nodes of its choice; None without Ray."""
    return next((key for key in _BACKENDS if arguments.get(key) == "ray"), None)


def nodes_of(arguments: Mapping[str, Any]) -> Nodes | None:
    """The nodes that vLLM itself connects; None for one node, or Ray's.

    Raises:
        ConfigError: a number is none, or an address is missing.
    """
    count = size_of(arguments, "nnodes")
    if count > 1:
        host = _address(arguments, "master_addr", f"nnodes {count}")
        return Nodes(count, "nnodes", host, size_of(arguments, "master_port", _MASTER_PORT))
    size, local = size_of(arguments, "data_parallel_size"), size_of(arguments, "data_parallel_size_local", 0)
    alone = arguments.get("data_parallel_rank") is not None or bool(arguments.get("data_parallel_hybrid_lb"))
    if not 0 < local < size or alone or ray_argument(arguments):
        return None
    asked = f"data_parallel_size_local {local} of data_parallel_size {size}"
    host = _address(arguments, "data_parallel_address", asked)
    port = size_of(arguments, "data_parallel_rpc_port", _DATA_PARALLEL_PORT)
    return Nodes(-(-size // local), "data_parallel_size_local", host, port)


@contextlib.contextmanager
def waited_for(arguments: Mapping[str, Any], log_info: Callable[[str], None]) -> Iterator[None]:
    """While an engine starts: the log, and an error, say that other nodes have a part of it.

    Raises:
        ConfigError: an engine on several nodes has not started.
    """
    nodes = nodes_of(arguments)
    if nodes is None:
        yield
        return
    log_info(f"{nodes} starts, and waits for the other nodes at {nodes.host}:{nodes.port}")
    try:
        yield
    except Exception as error:
        raise nodes.explained(error) from error


def check(arguments: Mapping[str, Any]) -> None:
    """What can be wrong with model.json of a model that tritonserver loads.

    Raises:
        ConfigError: names the argument.
    """
    rank = arguments.get("node_rank")
    if rank not in (None, 0):
        raise ConfigError(
            f"{ENGINE_ARGS_FILE}: node_rank: expected 0, the node of tritonserver, got {shorten(rank)}; "
            f"{PROGRAM} runs the others"
        )
    nodes_of(arguments)
    if (key := ray_argument(arguments)) and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            f"{ENGINE_ARGS_FILE}: {key}: 'ray' needs the package ray in the Python of the backend, on each node"
        )


def further(arguments: Mapping[str, Any], rank: int, address: str | None = None) -> tuple[dict[str, Any], Nodes]:
    """The engine arguments of another node than the first, and what it is a part of.

    Args:
        arguments: of model.json, the same as on the first node.
        rank: of the node, from 1.
        address: of the first node, where it is another than in model.json.

    Raises:
        ConfigError: model.json is for one node, or for fewer.
    """
    by_nodes = size_of(arguments, "nnodes") > 1
    if address is not None:
        arguments = {**arguments, "master_addr" if by_nodes else "data_parallel_address": address}
    nodes = nodes_of(arguments)
    if nodes is None:
        where = "on the nodes of Ray" if ray_argument(arguments) else "on one node"
        raise ConfigError(
            f"{ENGINE_ARGS_FILE}: nnodes: expected at least 2, or a data_parallel_size_local below data_parallel_size; "
            f"this engine is {where}"
        )
    if not 0 < rank < nodes.count:
        raise ConfigError(f"--rank: expected 1 to {nodes.count - 1} for {nodes}, got {rank}")
    if by_nodes:
        return {**arguments, "node_rank": rank}, nodes
    size, local = size_of(arguments, "data_parallel_size"), size_of(arguments, "data_parallel_size_local")
    first = rank * local
    place = {"data_parallel_start_rank": first, "data_parallel_size_local": min(local, size - first)}
    return {**arguments, **place}, nodes


def _address(arguments: Mapping[str, Any], key: str, asked: str) -> str:
    host = arguments.get(key)
    if not isinstance(host, str) or not host:
        raise ConfigError(
            f"{ENGINE_ARGS_FILE}: {key}: expected the address at which the other nodes find this one ({asked}), "
            f"got {shorten(host)}"
        )
    return host
