"""The host of a null engine that several instances share: each of them counts by itself, limits hold for all together.

Arguments: folder, listening socket, tritonserver's process id, grace and longest step in seconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from vllm_custom.engine.host.board import ROWS, Board
from vllm_custom.engine.host.folders import BOARD
from vllm_custom.engine.host.host import Host


class NullCore:
    """Nothing runs here."""

    clients = ROWS

    async def start(self, config: bytes, *, log_stats: bool, fronts: int) -> None:
        """It is up."""

    def addresses(self, client: int) -> dict[str, str]:
        return {}

    async def abort(self, client: int) -> int:
        return 0

    async def died(self) -> None:
        await asyncio.Event().wait()

    async def step(self) -> None:
        """There is none."""

    async def stop(self) -> None:
        """There is nothing to end."""


async def _serve(folder: Path, listening: socket.socket, server: int, grace: float, stall: float) -> None:
    await Host(NullCore(), Board(folder / BOARD), grace, stall).serve(listening, server)
    os._exit(0)  # as the host of vLLM's engine ends


if __name__ == "__main__":
    folder, descriptor, server, grace, stall = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as listening:
        asyncio.run(_serve(Path(folder), listening, int(server), float(grace), float(stall)))
