"""A long mixed load with bad requests in it: is each answered as it should be, and does anything grow?

    python -m benchmarks.soak --seconds 600
    python -m benchmarks.soak --requests 10000 --users 256 --bad 0.05
    python -m benchmarks.soak --seconds 300 --reload 50
    python -m benchmarks.soak --seconds 1200 --users 8 --pause 0.1 --every 10

Models on the null engine: one with two versions, one with two fronts. Users send text, streams that are read to their
end or left in the middle, images and mistakes, all in one order that --seed fixes, and each answer is looked at. Every
few seconds memory, descriptors, threads and shared-memory segments of tritonserver and all below it are counted, memory
also by process; at the end each has its slope, with an interval of 95 % as eight means of neighbours give it. With
--reload a further model is loaded, asked and unloaded again and again meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import contextlib
import itertools
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.null_server import NullModel, null_server
from benchmarks.report import write_json
from tests.support.shapes import picture
from tools.installer.server import TritonServer

MODELS = {"plain": NullModel(versions=(1, 2)), "shared": NullModel(fronts=2)}
RELOADED = "reloaded"
TEXT = {"text_input": "Hello", "ignore_eos": True}
IMAGES = [base64.b64encode(picture(77_000 + index, (64, 64)).encoded()).decode() for index in range(8)]
# Wrong requests, and a word of what is said about each.
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"text_input": "Hello", "max_tokens": -1}, "max_tokens"),
    ({"text_input": "Hello", "temperature": "warm"}, "temperature"),
    ({"text_input": "Hello", "image": ["!!"]}, "image"),
    ({"text_input": "Hello", "lora_name": "unknown"}, "LoRA feature is not enabled"),
    ({"text_input": "Hello", "sampling_parameters": "{"}, "sampling_parameters"),
    ({"text_input": "Hello", "guided_json": "{"}, "guided_json"),
]
_SHARED_MEMORY = Path("/dev/shm")
# What came before this part of the run is not counted: caches fill, threads start.
_WARM_UP = 0.3
_STRETCHES = 8
_STUDENT = 2.447  # 97.5 % of Student's t with two degrees of freedom less
_NOTHING = 1e-6  # what rounding makes of a slope of zero
_UNLOAD_POLLS = 1200


@dataclass
class Tally:
    """Requests by kind, and those that did not end as they should."""

    done: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def expect(self, kind: str, holds: bool, said: str) -> None:
        self.done[kind] += 1
        if not holds:
            self.wrong.append(f"{kind}: {said[:300]}")


class Load:
    """What users send to one server."""

    def __init__(self, server: TritonServer, options: argparse.Namespace) -> None:
        self._url = server.http_url
        self._bad = options.bad
        self._pause = options.pause
        self._random = random.Random(options.seed)
        self._numbers: Iterator[int] = itertools.count()
        self._limit = options.requests or math.inf
        self._until = time.monotonic() + options.seconds if not options.requests else math.inf
        self.tally = Tally()

    async def run(self, users: int) -> None:
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(self._user(session) for _ in range(users)))

    async def _user(self, session: aiohttp.ClientSession) -> None:
        while next(self._numbers) < self._limit and time.monotonic() < self._until:
            kind = self._mistake if self._random.random() < self._bad else self._random.choice(self._right)
            try:
                await kind(session)
            except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
                self.tally.wrong.append(repr(error))
            if self._pause:
                await asyncio.sleep(2 * self._pause * self._random.random())

    @property
    def _right(self) -> Sequence[Callable[[aiohttp.ClientSession], Any]]:
        return (self._text, self._stream, self._left, self._image)

    def _path(self, action: str) -> str:
        where = self._random.choice(("plain/versions/1", "plain/versions/2", "shared"))
        return f"{self._url}/v2/models/{where}/{action}"

    async def _text(self, session: aiohttp.ClientSession) -> None:
        tokens = self._random.randint(1, 32)
        async with session.post(self._path("generate"), json=TEXT | {"max_tokens": tokens}) as answer:
            said = await answer.text()
        self.tally.expect(
            "text", answer.status == 200 and json.loads(said)["text_output"] == f"Hello{_whole(tokens)}", said
        )

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        tokens = self._random.randint(1, 64)
        body = TEXT | {"max_tokens": tokens, "stream": True}
        async with session.post(self._path("generate_stream"), json=body) as answer:
            said = await answer.text()
        pieces = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: ")]
        text = "".join(piece.get("text_output", "") for piece in pieces)
        self.tally.expect("stream", text == _whole(tokens), said)

    async def _left(self, session: aiohttp.ClientSession) -> None:
        body = TEXT | {"max_tokens": 4000, "stream": True}
        async with session.post(self._path("generate_stream"), json=body) as answer:
            first = (await answer.content.readline()).decode()
            answer.close()
        is_piece = answer.status == 200 and first.startswith("data: ") and "error" not in first
        self.tally.expect("left in the middle", is_piece, f"{answer.status} {first}")

    async def _image(self, session: aiohttp.ClientSession) -> None:
        body = TEXT | {"image": [self._random.choice(IMAGES)], "max_tokens": 2}
        async with session.post(self._path("generate"), json=body) as answer:
            said = await answer.text()
        self.tally.expect("image", answer.status == 200, said)

    async def _mistake(self, session: aiohttp.ClientSession) -> None:
        body, word = self._random.choice(MISTAKES)
        async with session.post(self._path("generate"), json=body) as answer:
            said = await answer.text()
        self.tally.expect("mistake", answer.status in (400, 404) and word in said, f"{answer.status} {said}")


@dataclass(frozen=True)
class Slope:
    """Of one figure over time: per hour, and half the width of its 95 % interval."""

    per_hour: float
    margin: float

    @classmethod
    def of(cls, seconds: Sequence[float], values: Sequence[float]) -> Slope:
        """By least squares of the means of some stretches: what is counted depends on what it was a moment ago."""
        hours = np.array([part.mean() for part in np.array_split(np.array(seconds) / 3600, _STRETCHES)])
        means = np.array([part.mean() for part in np.array_split(np.array(values, float), _STRETCHES)])
        slope, level = np.polyfit(hours, means, 1)
        rest = means - (slope * hours + level)
        variance = float(rest @ rest) / (_STRETCHES - 2)
        return cls(float(slope), _STUDENT * math.sqrt(variance / float(((hours - hours.mean()) ** 2).sum())))

    @property
    def is_flat(self) -> bool:
        """Whether nothing speaks for growth."""
        return self.per_hour - self.margin <= _NOTHING


def figures(server: TritonServer) -> dict[str, float]:
    """Of tritonserver and all processes below it."""
    found: dict[str, float] = collections.defaultdict(float)
    process = psutil.Process(server.pid)
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            memory = each.memory_full_info().uss / 2**20
            found["memory MiB"] += memory
            found[f"memory MiB of {role(each)}"] += memory
            found["descriptors"] += each.num_fds()
            found["threads"] += each.num_threads()
            found["processes"] += 1
    found["shared-memory segments"] = len(list(_SHARED_MEMORY.iterdir()))
    return dict(found)


def role(process: psutil.Process) -> str:
    """What a process is; those that come and go have one name together."""
    text = " ".join(process.cmdline())
    if stub := re.search(r"/([^/ ]+)/([^/ ]+)/model\.py .* ([^/ ]+_\d+_\d+) ", text):
        return f"instance {stub[3]}, version {stub[2]}"
    program = re.search(r"/(\w+)\.py |(?:-m|from) ([\w.]+)", text) if process.name().startswith("python") else None
    return (program[1] or program[2].rpartition(".")[2]) if program else process.name()


async def watch(server: TritonServer, seconds: float, rows: list[dict[str, float]]) -> None:
    """Add a row every so many seconds, until cancelled."""
    began = time.monotonic()
    while True:
        rows.append({"at": time.monotonic() - began} | await asyncio.to_thread(figures, server))
        await asyncio.sleep(seconds)


async def reload(server: TritonServer, times: int, tally: Tally) -> None:
    """Load, ask and unload a model next to the others."""
    model = f"{server.http_url}/v2/models/{RELOADED}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:

        async def load(action: str) -> None:
            url = f"{server.http_url}/v2/repository/models/{RELOADED}/{action}"
            async with session.post(url, json={}) as answer:
                tally.expect(action, answer.status == 200, await answer.text())

        for _ in range(times):
            await load("load")
            async with session.post(f"{model}/generate", json=TEXT | {"max_tokens": 3}) as answer:
                tally.expect("after a load", answer.status == 200, await answer.text())
            await load("unload")
            for _ in range(_UNLOAD_POLLS):
                async with session.get(f"{model}/ready") as answer:
                    gone = answer.status != 200
                if gone:
                    break
                await asyncio.sleep(0.05)
            tally.expect("gone after that", gone, "still ready")


async def run(server: TritonServer, options: argparse.Namespace, rows: list[dict[str, float]]) -> Tally:
    load = Load(server, options)
    watching = asyncio.create_task(watch(server, options.every, rows))
    await asyncio.gather(load.run(options.users), reload(server, options.reload, load.tally))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching  # it may have failed before
    return load.tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--requests", type=int, default=0, help="so many, in place of the time")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--pause", type=float, default=0, help="seconds, on average, between two requests of a user")
    parser.add_argument("--bad", type=float, default=0.05, help="share of requests that are mistakes")
    parser.add_argument("--reload", type=int, default=0, metavar="TIMES")
    parser.add_argument("--every", type=float, default=2, help="seconds between counts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/soak.json"))
    options = parser.parse_args()
    models = MODELS | ({RELOADED: NullModel()} if options.reload else {})
    rows: list[dict[str, float]] = []
    with null_server(models, options.out.parent / "soak_server.log", {"NULL_ENGINE_INTERVAL_MS": "5"}) as server:
        began = time.monotonic()
        tally = asyncio.run(run(server, options, rows))
        took = time.monotonic() - began
    write_json(options.out, rows, done=tally.done, wrong=tally.wrong, seconds=took)
    print(f"{tally.done.total()} requests in {took:.0f} s: {dict(tally.done)}")
    later = rows[int(len(rows) * _WARM_UP) :]
    for name in sorted(later[0].keys() - {"at"}):
        slope = Slope.of([row["at"] for row in later], [row.get(name, 0.0) for row in later])
        flat = "flat" if slope.is_flat else "grows"
        last = f"{later[0][name]:.0f} -> {later[-1].get(name, 0.0):.0f}"
        print(f"{name}: {last}, {slope.per_hour:+.1f} +- {slope.margin:.1f} per hour, {flat}")
    print(f"wrong: {len(tally.wrong)}")
    for line in tally.wrong[:10]:
        print(f"  {line}")
    raise SystemExit(bool(tally.wrong))


def _whole(tokens: int) -> str:
    """All that the null engine says in so many tokens."""
    return "".join(f" {number}" for number in range(tokens))


if __name__ == "__main__":
    main()
