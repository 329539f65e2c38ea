"""Four times more clients than there are places for: what the admitted requests wait, and how soon the others hear so.

    python -m benchmarks.overload --places 64

A model on the null engine with MAX_INFLIGHT_REQUESTS. As many clients as it has places, then four times as many, take
turns; each sends one request after the other. They begin within a second of each other, and one that is refused waits
for about a second, as it is told to, with the jitter that clients' libraries have. Over Triton's generate endpoint, and
over the OpenAI frontend. Meanwhile the same process asks whether the server lives: what that takes is the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.null_server import NullModel, null_server
from benchmarks.report import write_json
from tests.support.frontend_process import Frontend

MODEL = "full"
CROWD = 4
# A second on the average, as the hint of a refusal says; not all at the same time.
PAUSE_SECONDS = (0.5, 1.5)
BEGIN_SECONDS = 1.0
PROBE_SECONDS = 0.05
_OK = 200
_REFUSED = (400, 503)  # the first is what Triton 24.10 makes of UNAVAILABLE


@dataclass
class Outcome:
    """Seconds that requests took, by what became of them."""

    admitted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        of = {"admitted": self.admitted, "refused": self.refused, "probe": self.probes}
        counts = {name: len(seconds) for name, seconds in of.items()} | {"failed": len(self.failed)}
        return counts | {
            f"{name} p{percent}": _percentile(seconds, percent) for name, seconds in of.items() for percent in (50, 99)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=64, help="MAX_INFLIGHT_REQUESTS")
    parser.add_argument("--tokens", type=int, default=64, help="of each request, one every ten milliseconds")
    parser.add_argument("--seconds", type=float, default=10, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/overload.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        model = NullModel(parameters={"MAX_INFLIGHT_REQUESTS": options.places})
        log = options.out.parent / "overload_server.log"
        server = stack.enter_context(null_server({MODEL: model}, log, {"NULL_ENGINE_INTERVAL_MS": "10"}))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        frontend = stack.enter_context(Frontend(folder / "log", f"--triton={server.grpc_url}"))
        generate = {"text_input": "Hello", "max_tokens": options.tokens, "ignore_eos": True}
        completion = {"model": MODEL, "prompt": "Hello", "max_tokens": options.tokens, "ignore_eos": True}
        ways = {
            "generate": (
                f"{server.http_url}/v2/models/{MODEL}/generate",
                f"{server.http_url}/v2/health/live",
                generate,
            ),
            "OpenAI frontend": (
                f"{frontend.base_url}/completions",
                f"http://127.0.0.1:{frontend.port}/live",
                completion,
            ),
        }
        for turn in range(options.rounds):
            for way, (url, live, body) in ways.items():
                crowds = (1, CROWD) if turn % 2 == 0 else (CROWD, 1)
                for crowd in crowds:
                    outcome = asyncio.run(_clients(url, live, body, crowd * options.places, options.seconds))
                    rows.append({"way": way, "crowd": crowd, "round": turn} | outcome.row())
                    write_json(options.out, rows, places=options.places)
                    if outcome.failed:
                        raise SystemExit(f"{way}, {crowd} times the places: {outcome.failed[0]}")
    _print(rows, list(ways))


async def _clients(url: str, live: str, body: Mapping[str, Any], users: int, seconds: float) -> Outcome:
    outcome, until = Outcome(), time.monotonic() + seconds

    async def user() -> None:
        await asyncio.sleep(random.uniform(0, BEGIN_SECONDS))
        while time.monotonic() < until:
            began = time.monotonic()
            async with session.post(url, json=body) as answer:
                text = await answer.text()
            took = time.monotonic() - began
            if answer.status == _OK:
                outcome.admitted.append(took)
            elif answer.status in _REFUSED and "MAX_INFLIGHT_REQUESTS" in text:
                outcome.refused.append(took)
                await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
            else:
                outcome.failed.append(f"{answer.status} {text[:200]}")

    async def probe() -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            async with session.get(live) as answer:
                await answer.read()
            outcome.probes.append(time.monotonic() - began)
            await asyncio.sleep(PROBE_SECONDS)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(probe(), *(user() for _ in range(users)))
    return outcome


def _percentile(seconds: list[float], percent: int) -> float | None:
    """In milliseconds; None where there is nothing."""
    return round(1000 * float(np.percentile(seconds, percent)), 1) if seconds else None


def _print(rows: list[dict[str, Any]], ways: list[str]) -> None:
    """Medians over the rounds."""
    names = [f"{name} p{percent}" for name in ("admitted", "refused", "probe") for percent in (50, 99)]
    print(f"| way | clients per place | {' | '.join(f'{name} ms' for name in names)} | p99 ratio |")
    print("| --- " * (len(names) + 3) + "|")
    for way in ways:
        ratios = []
        for turn in {row["round"] for row in rows}:
            one, many = (
                next(row for row in rows if (row["way"], row["crowd"], row["round"]) == (way, crowd, turn))
                for crowd in (1, CROWD)
            )
            ratios.append(many["admitted p99"] / one["admitted p99"])
        for crowd in (1, CROWD):
            chosen = [row for row in rows if (row["way"], row["crowd"]) == (way, crowd)]
            figures = [_median([row[name] for row in chosen]) for name in names]
            ratio = f"{statistics.median(ratios):.2f}" if crowd == CROWD else ""
            print(f"| {way} | {crowd} | {' | '.join(figures)} | {ratio} |")


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.0f}" if known else ""


if __name__ == "__main__":
    main()
