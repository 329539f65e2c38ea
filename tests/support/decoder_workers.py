"""Look at the processes that decode a loader's media, and stop, kill and count them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_custom.contract.settings import Settings
from vllm_custom.media.loader import MediaLoader

_PATIENCE_SECONDS = 60.0
LIMITS = {"image": 99, "video": 99, "audio": 99}


@contextmanager
def loader(observe: Callable[[Any], None] | None = None, **parameters: object) -> Iterator[MediaLoader]:
    """A loader with these parameters of config.pbtxt, and one worker that is ready."""
    given = {name: {"string_value": str(value)} for name, value in parameters.items()}
    settings = Settings.from_model_config({"name": "model", "parameters": given})
    media = MediaLoader(settings, LIMITS, observe=observe, audio_rate=16_000)
    try:
        media.start()
        yield media
    finally:
        media.close()


def fork_server(media: MediaLoader) -> int:
    """Its process id."""
    process = media._pool._forks._process
    assert process is not None
    return process.pid


def children(process: int) -> list[int]:
    """Those that are alive, in the order of their start."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in listed if state(int(child)) not in ("Z", "")]


def workers(media: MediaLoader) -> list[int]:
    """Process ids of the loader's workers."""
    return children(fork_server(media))


def busy(media: MediaLoader) -> bool:
    """Whether each worker has an item."""
    return not media._pool._idle


def state(process: int) -> str:
    """R, S, T, Z ... as ps has it; empty for a process that is no more."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def stop(process: int) -> None:
    """Make a process hang."""
    os.kill(process, signal.SIGSTOP)


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` is true, for a long time if need be."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)
