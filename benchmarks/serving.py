"""The same requests to several servers, one after the other, in one run: throughput and times side by side.

    python -m benchmarks.serving --target serve=openai,http://127.0.0.1:8100,m --target ours=grpc,127.0.0.1:8001,m

The servers have to run already, with the same engine arguments. The first target is what the others are compared with.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Cell, ClientPool, summarise
from benchmarks.protocols import Target
from benchmarks.report import milliseconds, number, table, write_json

CELLS = [
    Cell("text, 64 concurrent, 128 tokens", 64, 384, 128),
    Cell("text, 256 concurrent, 64 tokens", 256, 1024, 64),
    Cell("text, 1 stream, 128 tokens", 1, 6, 128),
    Cell("text, 16 concurrent, 128 tokens", 16, 96, 128),
    Cell("text, 64 concurrent, 128 tokens, not streamed", 64, 384, 128, streamed=False),
    Cell("448x448 image, 32 concurrent, 32 tokens", 32, 128, 32, image_pixels=448),
    Cell("text, 1,024 concurrent, 64 tokens", 1024, 4096, 64),
    Cell("448x448 image, the same 8 again and again", 32, 128, 32, image_pixels=448, different=8),
    Cell("1024x1024 image, 32 concurrent, 32 tokens", 32, 96, 32, image_pixels=1024),
    Cell("1024x1024 image, the same 8 again and again", 32, 96, 32, image_pixels=1024, different=8),
    Cell("12-megapixel JPEG, 16 concurrent, 32 tokens", 16, 32, 32, image_pixels=3456),
    Cell("8 images of 448x448, 16 concurrent, 32 tokens", 16, 48, 32, image_pixels=448, images=8),
]
_COLUMNS = {
    "req/s": number("requests_per_second", 1),
    "tokens/s": number("tokens_per_second"),
    "tokens per chunk": number("tokens_per_chunk", 2),
    "first token p50 / p99 ms": milliseconds("first_p50", "first_p99"),
    "gap p50 / p99 ms": milliseconds("gap_p50", "gap_p99"),
    "whole request p50 ms": milliseconds("total_p50"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", type=Target.parse, required=True, help=Target.parse.__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=list(range(len(CELLS))), help=_numbered(CELLS))
    parser.add_argument("--rounds", type=int, default=2, help="every second one in the reverse order")
    parser.add_argument("--requests", type=float, default=1.0, help="times the number of requests of each cell")
    parser.add_argument("--client-processes", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=2, help="users' worth of requests before each measurement")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/serving.json"))
    options = parser.parse_args()
    rows: list[Mapping[str, Any]] = []
    failures: list[str] = []
    with ClientPool(options.client_processes) as clients:
        for cell in (_scaled(CELLS[index], options.requests) for index in options.cells):
            for number, (turn, target) in enumerate(_turns(options.target, options.rounds)):
                try:
                    if turn == 0:
                        clients.run(target, _warm_up(cell, options.warm_up))
                    measured = _unseen(cell, number)
                    rows.append(summarise(target.name, cell, clients.run(target, measured)).row())
                except RuntimeError as error:
                    failures.append(str(error))
                    print(error, flush=True)
                write_json(options.out, rows, failures=failures, cores=os.cpu_count(), machine=platform.platform())
    print(table(rows, _COLUMNS, baseline=options.target[0].name))
    if failures:
        raise SystemExit(f"{len(failures)} measurements failed")


def _turns(targets: Sequence[Target], rounds: int) -> Iterator[tuple[int, Target]]:
    """Each round has every target once."""
    for turn in range(rounds):
        for target in targets if turn % 2 == 0 else reversed(targets):
            yield turn, target


def _unseen(cell: Cell, number: int) -> Cell:
    """The cell with images that no measurement before had: several targets may be one server, which keeps images."""
    first = cell.first_index + number * cell.requests if cell.image_pixels and not cell.different else cell.first_index
    return Cell(**{**vars(cell), "first_index": first})


def _scaled(cell: Cell, factor: float) -> Cell:
    return Cell(**{**vars(cell), "requests": max(cell.concurrency, round(cell.requests * factor))})


def _warm_up(cell: Cell, users: int) -> Cell:
    """A short run of the same shape, with prompts of its own."""
    return Cell(**{**vars(cell), "requests": min(cell.requests, users * cell.concurrency), "first_index": 1_000_000})


def _numbered(cells: list[Cell]) -> str:
    return "; ".join(f"{index}: {cell.name}" for index, cell in enumerate(cells))


if __name__ == "__main__":
    main()
