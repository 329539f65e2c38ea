"""How many images a second are decoded: by worker processes, as the model's process has it, and by threads in it.

    python -m benchmarks.media_throughput --rounds 3

In each round every condition decodes all images, in an order that changes; its figure is the ratio to one thread in the
same round. Hashing, handing over and taking over are part of it. With each condition a timer in the same process
wants its turn every millisecond; the longest delay is what streams would have waited for the interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from vllm_custom.contract.settings import Settings
from vllm_custom.media.decoders.image import decode_image
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.loader import MediaLoader

MAX_PIXELS = 50_000_000
AT_A_TIME = 8
SIZES = ((640, 480), (1280, 960), (2560, 1920))


class Result(NamedTuple):
    """Images a second, and the longest time for which the event loop did not get its turn."""

    rate: float
    longest_ms: float


def images(count: int) -> list[bytes]:
    """JPEG and PNG files of what cameras and screens give, all different."""
    made = []
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        coarse = np.random.default_rng(index).integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(buffer, "JPEG" if index % 4 else "PNG")
        made.append(buffer.getvalue())
    return made


async def measured(files: list[bytes], decode: Callable[[bytes], Awaitable[object]]) -> Result:
    """Decode all files, some at a time."""
    places = asyncio.Semaphore(AT_A_TIME)
    delays = [0.0]

    async def one(data: bytes) -> None:
        async with places:
            await decode(data)

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            delays.append(time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    began = time.perf_counter()
    await asyncio.gather(*(one(data) for data in files))
    elapsed = time.perf_counter() - began
    watching.cancel()
    return Result(len(files) / elapsed, 1000 * max(delays))


async def by_threads(files: list[bytes], threads: int) -> Result:
    """As it was before there were workers."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(threads) as executor:
        return await measured(files, lambda data: loop.run_in_executor(executor, decode_image, data, "", MAX_PIXELS))


async def by_workers(files: list[bytes], workers: int) -> Result:
    """By the loader, without its cache."""
    given = {"MEDIA_CONCURRENCY": workers, "MEDIA_CACHE_BYTES": 0}
    parameters = {name: {"string_value": str(value)} for name, value in given.items()}
    media = MediaLoader(Settings.from_model_config({"name": "model", "parameters": parameters}), {"image": 1})
    media.start()

    async def decode(data: bytes) -> None:
        (await media.load([MediaElement("image", "image[0]", data)])).release()

    try:
        await measured(files[: 2 * AT_A_TIME], decode)  # all workers are there
        return await measured(files, decode)
    finally:
        media.close()


async def run(rounds: int, count: int) -> dict[str, list[Result]]:
    """Condition to its result in each round."""
    files = images(count)
    conditions = {f"{number} {kind}": (kind, number) for kind in ("threads", "workers") for number in (1, 2, 4)}
    results: dict[str, list[Result]] = {name: [] for name in conditions}
    order = list(conditions)
    for turn in range(rounds):
        random.Random(turn).shuffle(order)
        for name in order:
            kind, number = conditions[name]
            results[name].append(await (by_threads if kind == "threads" else by_workers)(files, number))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=120)
    options = parser.parse_args()
    results = asyncio.run(run(options.rounds, options.images))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| decoded by | images/s | ratio to 1 thread | lowest | highest | longest delay ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, values in results.items():
        ratios = [value.rate / one.rate for value, one in zip(values, results["1 threads"], strict=True)]
        rate, longest = (statistics.median(column) for column in zip(*values, strict=True))
        shown = (f"{figure:.2f}" for figure in (statistics.median(ratios), min(ratios), max(ratios)))
        print(f"| {name} | {rate:.0f} | {' | '.join(shown)} | {longest:.0f} |")


if __name__ == "__main__":
    main()
