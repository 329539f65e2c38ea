"""``python -m vllm_custom.node``: a further node of an engine, whose first one is that of tritonserver.

It reads the model.json that tritonserver reads, and runs this node's part of the engine until that ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_custom import engine_args
from vllm_custom.errors import ConfigError
from vllm_custom.kernel import model_files, nodes, owned_folders
from vllm_custom.kernel.orphans import SOCKETS_CHARACTERS, SOCKETS_VARIABLE
from vllm_custom.runtime.peer import PeerWatch


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=nodes.PROGRAM, description=__doc__)
    made.add_argument("folder", type=Path, help="version folder of the model, with model.json, as on the first node")
    made.add_argument("--rank", type=int, required=True, metavar="N", help="of this node: 1, 2, ...")
    made.add_argument("--address", help="of the first node (default: as model.json says)")
    return made


def arguments_of(folder: Path, rank: int, address: str | None) -> tuple[dict[str, Any], nodes.Nodes]:
    """The engine arguments of this node, and all nodes.

    Raises:
        ConfigError: model.json is not as it should be, or is for fewer nodes.
    """
    given = model_files.read_engine_args(folder)
    if known := engine_args.names_in_source():
        model_files.check_engine_args(given, known)
    arguments, all_nodes = nodes.further(given, rank, address)
    arguments = engine_args.resolve_paths(arguments, folder)
    return {**arguments, "enable_lora": model_files.lora_enabled(arguments)}, all_nodes


def main(given: Sequence[str] | None = None) -> int:
    """Returns 2 where the configuration is wrong, 1 where this node's part has failed; SIGTERM ends it with 0."""
    options = parser().parse_args(given)
    try:
        arguments, all_nodes = arguments_of(options.folder, options.rank, options.address)
    except ConfigError as error:
        print(f"{nodes.PROGRAM}: {error}", file=sys.stderr)
        return 2
    owned_folders.remove_abandoned()
    sockets = owned_folders.OwnedFolder(owned_folders.SOCKETS, SOCKETS_CHARACTERS)
    os.environ[SOCKETS_VARIABLE] = str(sockets.path)
    PeerWatch(all_nodes.host, _end).start()
    try:
        from vllm_custom.engine import vllm as engine

        engine.run_further_node(arguments)
    finally:
        sockets.close()
    return 1


def _end() -> None:
    """Workers would wait forever for the next step of an engine that has ended."""
    print(f"{nodes.PROGRAM}: the first node has ended the engine", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
