"""So many users at once against one target, from several processes, and what that amounts to."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.protocols import Job, Record, Target

_WORDS = ("red", "green", "blue", "circle", "square", "star", "left", "right", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Cell:
    """A point to measure: ``concurrency`` users, who send ``requests`` requests between them.

    Attributes:
        image_pixels: of a side; 0 for requests without images.
        images: of one request.
        different: so many images there are in all; 0 where none is sent twice.
    """

    name: str
    concurrency: int
    requests: int
    max_tokens: int
    streamed: bool = True
    image_pixels: int = 0
    prompt_words: int = 24
    first_index: int = 0
    images: int = 1
    different: int = 0

    def job(self, index: int) -> Job:
        """The ``index``-th request: the same for every target, different from the others of the cell."""
        index += self.first_index
        draw = random.Random(index)
        if self.image_pixels:
            numbers = range(index * self.images, (index + 1) * self.images)
            images = (_image(number % (self.different or number + 1), self.image_pixels) for number in numbers)
            return Job("Describe the image.", self.max_tokens, self.streamed, tuple(images))
        words = " ".join(draw.choice(_WORDS) for _ in range(self.prompt_words))
        return Job(f"{index}: {words}", self.max_tokens, self.streamed)


@dataclass(frozen=True)
class Summary:
    """What a cell gave; times in seconds."""

    target: str
    cell: str
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    chunks_per_second: float
    tokens_per_chunk: float
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    total_p50: float

    def row(self) -> dict[str, Any]:
        return asdict(self)


def summarise(target: str, cell: Cell, records: Sequence[Record]) -> Summary:
    """Figures over all ``records`` of one cell, from the first request sent to the last answer's end."""
    seconds = max(record.ended for record in records) - min(record.sent for record in records)
    chunks = sum(len(record.chunks) for record in records)
    tokens = cell.max_tokens * len(records)
    first = [record.chunks[0] - record.sent for record in records]
    gaps = np.concatenate([np.diff(record.chunks) for record in records])
    return Summary(
        target=target,
        cell=cell.name,
        seconds=seconds,
        requests_per_second=len(records) / seconds,
        tokens_per_second=tokens / seconds,
        chunks_per_second=chunks / seconds,
        tokens_per_chunk=tokens / chunks,
        first_p50=float(np.percentile(first, 50)),
        first_p99=float(np.percentile(first, 99)),
        gap_p50=float(np.percentile(gaps, 50)) if gaps.size else 0.0,
        gap_p99=float(np.percentile(gaps, 99)) if gaps.size else 0.0,
        total_p50=float(np.percentile([record.ended - record.sent for record in records], 50)),
    )


class ClientPool:
    """Client processes that stay for many cells, so that starting them costs no measurement anything."""

    def __init__(self, processes: int) -> None:
        """``processes``: 0 takes half of the cores, at least 1 and at most 8."""
        count = processes or max(1, min(8, (os.cpu_count() or 2) // 2))
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, target: Target, cell: Cell) -> list[Record]:
        """All requests of ``cell``. Raises RuntimeError where one of them failed."""
        busy = self._pipes[: cell.concurrency]
        for index, pipe in enumerate(busy):
            users = len(range(index, cell.concurrency, len(busy)))
            pipe.send((target, cell, list(range(index, cell.requests, len(busy))), users))
        for pipe in busy:
            pipe.recv()  # connected
        start = time.monotonic() + 0.1
        for pipe in busy:
            pipe.send(start)
        answers = [pipe.recv() for pipe in busy]
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"{target.name}, {cell.name}: {answer}")
        return [record for answer in answers for record in answer]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)

    def __enter__(self) -> ClientPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Any) -> None:
    while (order := pipe.recv()) is not None:
        try:
            answer: Any = asyncio.run(_load(pipe, *order))
        except Exception as error:
            answer = repr(error)
        pipe.send(answer)


async def _load(pipe: Any, target: Target, cell: Cell, indexes: list[int], users: int) -> list[Record]:
    client = target.connect()
    jobs = [cell.job(index) for index in indexes]
    records: list[Record] = []

    async def user() -> None:
        while jobs:
            records.append(await client.ask(jobs.pop(0)))

    try:
        pipe.send("connected")
        await asyncio.sleep(max(0.0, pipe.recv() - time.monotonic()))
        await asyncio.gather(*(user() for _ in range(users)))
    finally:
        await client.close()
    return records


@functools.lru_cache(maxsize=64)
def _image(seed: int, pixels: int) -> bytes:
    """A square JPEG of noise in blocks."""
    import io

    from PIL import Image

    blocks = np.random.default_rng(seed).integers(0, 256, (pixels // 16, pixels // 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((pixels, pixels), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
