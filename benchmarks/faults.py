"""What clients and machines do to a server, in larger numbers than the tests: is everything whole, and what is left?

    python -m benchmarks.faults
    python -m benchmarks.faults --only leaving --clients 1000

    unshare --mount sh -c 'mount -t tmpfs -o size=48m none /dev/shm; python -m benchmarks.faults --full /dev/shm'

A model on the null engine with two fronts. ``leaving``: that many clients leave in the middle of their streams, all at
the same moment. ``stopped``: a front stands still (SIGSTOP) while both have streams. ``silent``: clients that never
read what comes, next to others that do. With --full a folder, which has to be a small file system of its own, is filled
to the last byte, and emptied again; with TMPDIR and --out below it, that is where logs and temporary files are.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from PIL import Image

from benchmarks.null_server import NullModel, null_server
from benchmarks.report import write_json
from benchmarks.soak import figures
from tests.support.shapes import encode
from tools.installer.server import TritonServer

MODEL = "faults"
PLACES = 2000
LONG = {"text_input": "Hello", "ignore_eos": True, "max_tokens": 7000, "stream": True}
SHORT = {"text_input": "Hello", "ignore_eos": True, "max_tokens": 2}
STREAMS, TOKENS = 64, 600
ASKED = 200
STOPPED_SECONDS = 10.0
_BLOCK = 65536
_TIMES = 6
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0
_IN_FLIGHT = re.compile(rf'^vllm_custom:sequences_in_flight\{{model="{MODEL}",version="1"\}} (\S+)', re.MULTILINE)

Row = dict[str, Any]


class Faults:
    """One server, and what is done to it. Each method returns what was found."""

    def __init__(self, server: TritonServer, session: aiohttp.ClientSession, clients: int) -> None:
        self._server = server
        self._session = session
        self._clients = clients
        self._broken = 0
        self._url = f"{server.http_url}/v2/models/{MODEL}"

    async def leaving(self) -> Row:
        """Several times: the last one leaves no more than those before it."""
        free_after, left = [], []
        for _ in range(_TIMES):
            free_after.append(await self._leave())
            left.append(await asyncio.to_thread(figures, self._server))
        kept = ("descriptors", "threads", "processes", "shared-memory segments", "memory MiB")
        each = {name: [round(one[name]) for one in left] for name in kept}
        # Triton 24.10's HTTP server may begin an answer without its status line where it has many at once.
        return {"clients": self._clients, "broken": self._broken, "seconds until all are free": free_after, **each}

    async def stopped(self) -> Row:
        """Every stream is whole in the end, and those of the other front go on meanwhile."""
        heard: list[float] = []
        running = [asyncio.ensure_future(self._read(heard)) for _ in range(STREAMS)]
        began = time.monotonic()
        while len(heard) < STREAMS:
            if time.monotonic() - began > _PATIENCE_SECONDS:
                raise SystemExit(f"only {len(heard)} events have come")
            await asyncio.sleep(_POLL_SECONDS)
        children = psutil.Process(self._server.pid).children()
        front = next(child for child in children if f" {MODEL}_0_0 " in " ".join(child.cmdline()))
        front.send_signal(signal.SIGSTOP)
        try:
            at = len(heard)
            await asyncio.sleep(STOPPED_SECONDS)
            meanwhile = len(heard) - at
        finally:
            front.send_signal(signal.SIGCONT)
        texts = await asyncio.gather(*running)
        whole = "".join(f" {number}" for number in range(TOKENS))
        return {"streams": STREAMS, "whole": texts.count(whole), "events while it stood still": meanwhile}

    async def silent(self) -> Row:
        """How long others wait, without and with clients that never read."""
        alone = await self._ask()
        host, port = self._server.http_url.removeprefix("http://").split(":")
        body = json.dumps(LONG).encode()
        head = f"POST /v2/models/{MODEL}/generate_stream HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        request = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
        opened = [await asyncio.open_connection(host, int(port), limit=1) for _ in range(self._clients // 5)]
        for _, writer in opened:
            writer.write(request)
        others = await self._ask()
        for _, writer in opened:
            writer.close()
        return {
            "clients": len(opened),
            "answered": len(others),
            "p99 ms without them": _p99(alone),
            "p99 ms next to them": _p99(others),
            "seconds until all places are free": await self._until_free(),
        }

    async def full(self, folder: Path) -> Row:
        """What becomes of requests while there is no space in ``folder``, and after that."""
        filler = folder / "filler"
        try:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(_BLOCK)):
                    pass
            meanwhile = await self._ask_all_kinds()
        finally:
            filler.unlink()
        return {"folder": str(folder), "while it is full": meanwhile, "after that": await self._ask_all_kinds()}

    async def _ask_all_kinds(self) -> dict[str, int]:
        """How many requests ended how, several kinds at once: short ones, streams, and images of a few megabytes."""
        kinds = [SHORT, SHORT, SHORT | {"image": [_noise()]}, LONG | {"max_tokens": 50}]
        ended: Counter[str] = Counter()

        async def ask(body: Row) -> None:
            path = "generate_stream" if "stream" in body else "generate"
            async with self._session.post(f"{self._url}/{path}", json=body) as answer:
                said = await answer.text()
            error = re.search(r'"error":"([^"]{0,60})', said)
            ended[error[1] if error else f"{answer.status}"] += 1

        for _ in range(5):
            await asyncio.gather(*(ask(body) for body in 5 * kinds))
        return dict(ended)

    async def _leave(self) -> float:
        """Seconds from the moment at which all leave."""
        asked = (self._session.post(f"{self._url}/generate_stream", json=LONG) for _ in range(self._clients))
        tried = await asyncio.gather(*asked, return_exceptions=True)
        opened = [answer for answer in tried if not isinstance(answer, BaseException)]
        self._broken += len(tried) - len(opened)
        first = await asyncio.gather(*(answer.content.readline() for answer in opened))
        if wrong := [line for line in first if not line.startswith(b"data: ") or b"error" in line]:
            raise SystemExit(f"{len(wrong)} streams did not begin: {wrong[0][:300]!r}")
        for answer in opened:
            answer.close()
        return await self._until_free()

    async def _read(self, heard: list[float]) -> str:
        texts = []
        body = LONG | {"max_tokens": TOKENS}
        async with self._session.post(f"{self._url}/generate_stream", json=body) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    heard.append(time.monotonic())
                    texts.append(str(json.loads(line[6:]).get("text_output", "!")))
        return "".join(texts)

    async def _ask(self) -> list[float]:
        took = []
        for _ in range(ASKED):
            began = time.monotonic()
            async with self._session.post(f"{self._url}/generate", json=SHORT) as answer:
                if answer.status == 200:
                    await answer.read()
                    took.append(time.monotonic() - began)
        return took

    async def _until_free(self) -> float:
        began = time.monotonic()
        while left := await self._in_flight():
            if time.monotonic() - began > _PATIENCE_SECONDS:
                raise SystemExit(
                    f"{left:.0f} requests of clients that have left are still under way; "
                    f"{self._broken} answers had no status line"
                )
            await asyncio.sleep(_POLL_SECONDS)
        return round(time.monotonic() - began, 2)

    async def _in_flight(self) -> float:
        async with self._session.get(self._server.metrics_url) as answer:
            found = _IN_FLIGHT.search(await answer.text())
        if found is None:
            raise SystemExit("the server does not say how many requests are under way")
        return float(found[1])


def _noise() -> str:
    """An image of four megabytes, in base64."""
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    return base64.b64encode(encode(Image.fromarray(pixels))).decode()


def _p99(seconds: list[float]) -> float:
    return round(1000 * float(np.percentile(seconds, 99)), 1)


async def run(server: TritonServer, options: argparse.Namespace, path: Path) -> None:
    rows: list[Row] = []
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        faults = Faults(server, session, options.clients)
        known: dict[str, Callable[[], Awaitable[Row]]] = {
            "leaving": faults.leaving,
            "stopped": faults.stopped,
            "silent": faults.silent,
        }
        if options.full:
            known = {"full": lambda: faults.full(options.full)}
        for name in options.only or known:
            rows.append({"what": name, **await known[name]()})
            write_json(path, rows)
            print(rows[-1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=("leaving", "stopped", "silent"))
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--full", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/faults.json"))
    options = parser.parse_args()
    parameters = {"REPORT_CUSTOM_METRICS": "true", "MAX_INFLIGHT_REQUESTS": PLACES}
    model = NullModel(fronts=2, parameters=parameters)
    with null_server(
        {MODEL: model}, options.out.parent / "faults_server.log", {"NULL_ENGINE_INTERVAL_MS": "20"}
    ) as server:
        asyncio.run(run(server, options, options.out))


if __name__ == "__main__":
    main()
