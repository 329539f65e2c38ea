"""A host whose engine is a process that sleeps. What is asked of it goes to the file that FAKE_CORE_LOG names."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from vllm_custom.engine.host import host as host_module
from vllm_custom.engine.host.board import Board
from vllm_custom.engine.host.host import CoreError, Host

_CLIENTS = 4


class FakeCore:
    """Starts, or does not, as the configuration says: ``bad``, ``worse``, or how many seconds it takes."""

    clients = _CLIENTS

    def __init__(self) -> None:
        self._engine: subprocess.Popen[bytes] | None = None
        self._up = asyncio.Event()

    async def start(self, config: bytes, *, log_stats: bool, fronts: int) -> None:
        _note(f"start {config.decode()} {log_stats} {fronts} {os.environ.get('FAKE_DEVICES', '')}")
        if config == b"bad":
            raise CoreError("no weights")
        if config == b"worse":
            raise ImportError("no such module")
        await asyncio.sleep(float(config))
        self._engine = subprocess.Popen(["sleep", "1000"])  # noqa: ASYNC220
        _note(f"pid {self._engine.pid}")
        self._up.set()

    def addresses(self, client: int) -> dict[str, str]:
        return {"input_address": f"in{client}"}

    async def abort(self, client: int) -> int:
        _note(f"abort {client}")
        return 0

    async def died(self) -> None:
        await self._up.wait()
        assert self._engine is not None
        await asyncio.to_thread(self._engine.wait)

    async def step(self) -> None:
        """A process that is stopped comes to no end of a step."""
        assert self._engine is not None
        while psutil.Process(self._engine.pid).status() == psutil.STATUS_STOPPED:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        _note("stop")
        if self._engine is not None:
            self._engine.kill()


def _note(line: str) -> None:
    with Path(os.environ["FAKE_CORE_LOG"]).open("a") as log:
        log.write(line + "\n")


def _hurry() -> None:
    if seconds := os.environ.get("FAKE_LAST_REQUESTS_SECONDS"):
        host_module._LAST_REQUESTS_SECONDS = float(seconds)


async def _serve(folder: Path, listening: socket.socket, server: int, grace: float, stall: float) -> None:
    await Host(FakeCore(), Board(folder / "board"), grace, stall).serve(listening, server)
    os._exit(0)


if __name__ == "__main__":
    _hurry()
    folder, descriptor, server, grace, stall = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as listening:
        asyncio.run(_serve(Path(folder), listening, int(server), float(grace), float(stall)))
