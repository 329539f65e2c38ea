"""One target under atheris in a process of its own: ``python -m tests.fuzz.worker TARGET RUNS [libFuzzer options]``."""

from __future__ import annotations

import os
import random
import struct
import sys
import zlib
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vllm_custom", "PIL"]):
    from tests.fuzz import targets

GROWTH_LIMIT_BYTES = 128 << 20
_PNG = b"\x89PNG\r\n\x1a\n"


class MemoryWatch:
    """Fails where the process grows after its first fifth of the runs, when all is loaded and caches are full."""

    def __init__(self, runs: int) -> None:
        self._warm, self._last = max(runs // 5, 1), runs
        self._count = 0
        self._before = 0

    def step(self) -> None:
        self._count += 1
        if self._count == self._warm:
            self._before = resident_bytes()
        elif self._count == self._last:
            growth = resident_bytes() - self._before
            print(f"memory growth: {growth / 2**20:.1f} MiB in {self._last - self._warm} runs", file=sys.stderr)
            assert growth < GROWTH_LIMIT_BYTES, "the process grows"


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's mutation; of a PNG with its check sums mended in most cases, since all that is behind them is dead
    otherwise."""
    mutated = atheris.Mutate(data, max_size)
    return mended_png(mutated)[:max_size] if random.Random(seed).random() < 0.8 else mutated


def mended_png(data: bytes) -> bytes:
    """The file with the check sum of each chunk that is whole set right."""
    if not data.startswith(_PNG):
        return data
    mended, at = bytearray(data), len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def main(target: str, runs: int, options: list[str]) -> None:
    watch = MemoryWatch(runs)

    def step(data: bytes) -> None:
        targets.run(target, data)
        watch.step()

    mutator = {"custom_mutator": mutate} if target == "image" else {}
    atheris.Setup([sys.argv[0], f"-runs={runs}", *options], step, **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
