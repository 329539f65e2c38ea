"""The program of an engine's host.

Arguments: folder, listening socket, tritonserver's process id, grace and longest step in seconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from vllm_custom.engine.host import folders
from vllm_custom.engine.host.board import Board
from vllm_custom.engine.host.host import Host
from vllm_custom.runtime import tuning


async def serve(
    folder: Path, listening: socket.socket, server: int, grace_seconds: float, stall_seconds: float
) -> None:
    """The host's life."""
    # Now, while the first front imports it too.
    with tuning.without_collections():
        from vllm_custom.engine.vllm.host.core import VllmCore

        tuning.freeze_gc_heap()
    board = Board(folder / folders.BOARD)
    await Host(VllmCore(folder), board, grace_seconds, stall_seconds).serve(listening, server)
    os._exit(0)  # a thread may still wait for an engine that was about to start; the guard ends what it started


def main() -> None:
    folder, descriptor, server, grace, stall = sys.argv[1:]
    os.environ["VLLM_RPC_BASE_PATH"] = folder  # where vLLM makes sockets of its own
    with socket.socket(fileno=int(descriptor)) as listening:
        asyncio.run(serve(Path(folder), listening, int(server), float(grace), float(stall)))


if __name__ == "__main__":
    main()
