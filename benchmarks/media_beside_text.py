"""Text streams alone, and next to slow downloads and large decodes: does media work hold text requests up?

    python -m benchmarks.media_beside_text --engine null --rounds 5

Starts a tritonserver with shapes_vl and an HTTP server that sends images slowly. The engine is vLLM's, or one without
a model that makes a token for each stream every 10 ms and leaves the cores to the rest. In each round every condition
has a turn, in an order that changes; the figure of a condition is its ratio to "alone" in the same round. The large
image is cut off at its end, so that all of it is decoded and nothing of it reaches the engine. "decodes elsewhere" is
the control: a process next to the server decodes the same image as often as it can, which takes a core and 200 MB of
fresh memory each time. The results are printed and written to build/benchmarks.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import itertools
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tools.installer import backends, environment
from tools.installer.paths import DEFAULT_REPOSITORY
from tools.installer.server import TritonServer

MODEL = "shapes_vl"
NULL_BASE = Path(__file__).parent / "backends" / "null_base"
SLOW_PIECES = 40
SMALL_SIDE = 112
LARGE_SIDE = 7000
TIMEOUT_SECONDS = 300
TOKENS = re.compile(rb'"num_output_tokens":(\d+)')
CONFIG = """
backend: "vllm_custom"
instance_group [ {{ count: 1, kind: KIND_MODEL }} ]
parameters {{ key: "ALLOWED_MEDIA_DOMAINS" value: {{ string_value: "127.0.0.1:{port}" }} }}
parameters {{ key: "ALLOWED_MEDIA_NETWORKS" value: {{ string_value: "127.0.0.1/32" }} }}
parameters {{ key: "MEDIA_CACHE_BYTES" value: {{ string_value: "0" }} }}
parameters {{ key: "MEDIA_FETCH_TIMEOUT_SECONDS" value: {{ string_value: "120" }} }}
"""


def serve_slowly(seconds: float, ports: Any) -> None:
    """A process that answers every GET with a small image, in pieces over ``seconds``."""
    body = png(SMALL_SIDE, SMALL_SIDE)
    size = -(-len(body) // SLOW_PIECES)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for start in range(0, len(body), size):
                time.sleep(seconds / SLOW_PIECES)
                self.wfile.write(body[start : start + size])

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    ports.send(server.server_address[1])
    server.serve_forever()


def decode_forever(encoded: bytes) -> None:
    """What the server does with the image, without the server."""
    while True:
        with contextlib.suppress(OSError):  # it is cut off at its end
            Image.open(io.BytesIO(base64.b64decode(encoded))).load()


def png(side: int, detail: int) -> bytes:
    """Noise in blocks, ``detail`` of them along each side."""
    blocks = np.random.default_rng(1).integers(0, 256, (detail, detail, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Window(NamedTuple):
    """What reached the clients of all streams in a stretch of time; gaps are those between pieces of one stream."""

    tokens_per_second: float
    gap_p99_ms: float
    gap_max_ms: float

    @classmethod
    def of(cls, arrivals: list[list[tuple[float, int]]], began: float, ended: float) -> Window:
        """``arrivals``: for each stream, when a piece came and how many tokens it held."""
        inside = [[(at, tokens) for at, tokens in one if began <= at < ended] for one in arrivals]
        total = sum(tokens for one in inside for _, tokens in one)
        gaps: list[float] = []
        for one in inside:
            times = [began, *(at for at, _ in one), ended]
            gaps += (later - earlier for earlier, later in itertools.pairwise(times))
        return cls(total / (ended - began), 1000 * float(np.quantile(gaps, 0.99)), 1000 * max(gaps))


class Bench:
    """One server, and what is sent to it."""

    def __init__(self, server: TritonServer, media_port: int, downloads: int, streams: int, window: float) -> None:
        self._host = urlsplit(server.http_url).netloc
        self._urls = [f"http://127.0.0.1:{media_port}/{index}.png" for index in range(downloads)]
        self._large = base64.b64encode(png(LARGE_SIDE, LARGE_SIDE // 10)[:-64])
        self._large_request = self._question("Describe the image.", [self._large.decode()])
        self._streams = streams
        self._window = window

    def conditions(self) -> dict[str, list[Callable[[threading.Event], None]]]:
        """Name to what goes on next to the streams, until its event is set."""
        return {
            "alone": [],
            "slow downloads": [self.download],
            "large decodes": [self.decode],
            "slow downloads and large decodes": [self.download, self.decode],
            "decodes elsewhere": [self.decode_elsewhere],
        }

    def stream(self, others: list[Callable[[threading.Event], None]]) -> Window:
        """All streams for the length of the window, with these others next to them."""
        stop, failures = threading.Event(), []

        def guarded(work: Callable[[threading.Event], None]) -> None:
            try:
                work(stop)
            except Exception as error:
                failures.append(error)

        arrivals: list[list[tuple[float, int]]] = [[] for _ in range(self._streams)]
        readers = [
            threading.Thread(target=self._read, args=(index, arrivals[index], stop)) for index in range(self._streams)
        ]
        workers = [threading.Thread(target=guarded, args=(work,)) for work in others]
        for thread in (*readers, *workers):
            thread.start()
        time.sleep(1.0)  # until all of it is under way
        began = time.monotonic()
        time.sleep(self._window)
        ended = time.monotonic()
        stop.set()
        for thread in (*readers, *workers):
            thread.join()
        if failures:
            raise failures[0]
        return Window.of(arrivals, began, ended)

    def download(self, stop: threading.Event) -> None:
        """All slow URLs in one request, again and again."""
        request = self._question("Describe each image.", self._urls)
        while not stop.is_set():
            status, answer = self._ask(request)
            if status != 200:
                raise RuntimeError(f"the downloads failed: {answer}")

    def decode(self, stop: threading.Event) -> None:
        """The large image, again and again."""
        while not stop.is_set():
            status, answer = self._ask(self._large_request)
            if status == 200 or "damaged" not in answer:
                raise RuntimeError(f"the large image was not decoded to its end: {status} {answer[:300]}")

    def decode_elsewhere(self, stop: threading.Event) -> None:
        """The same image, by a process that has nothing to do with the server."""
        process = multiprocessing.get_context("spawn").Process(target=decode_forever, args=(self._large,), daemon=True)
        process.start()
        stop.wait()
        process.terminate()
        process.join()

    @staticmethod
    def _question(text: str, images: list[str]) -> bytes:
        return json.dumps({"text_input": text, "image": images, "max_tokens": 1}).encode()

    def _ask(self, request: bytes) -> tuple[int, str]:
        with self._post("generate", request) as response:
            return response.status, response.read().decode()

    def _read(self, index: int, arrivals: list[tuple[float, int]], stop: threading.Event) -> None:
        options = {"stream": True, "temperature": 0, "ignore_eos": True, "max_tokens": 6000}
        request = json.dumps({"text_input": f"{index}+1=", "return_num_output_tokens": True, **options}).encode()
        while not stop.is_set():
            with self._post("generate_stream", request) as response:
                rest = b""
                while not stop.is_set() and (block := response.read1()):
                    whole, _, rest = (rest + block).rpartition(b"\n\n")
                    arrivals.append((time.monotonic(), sum(map(int, TOKENS.findall(whole)))))

    @contextmanager
    def _post(self, endpoint: str, request: bytes) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", f"/v2/models/{MODEL}/{endpoint}", request, headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()


@contextmanager
def media_server(seconds: float) -> Iterator[int]:
    """The slow server's port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_slowly, args=(seconds, theirs), daemon=True)
    process.start()
    try:
        yield int(ours.recv())
    finally:
        process.terminate()
        process.join()


def model_repository(folder: Path, port: int, base: Path | None) -> Path:
    """shapes_vl, with URLs of the slow server allowed; ``base`` is the backend to build on, None for the usual one."""
    shutil.copytree(DEFAULT_REPOSITORY / MODEL, folder / MODEL)
    config = CONFIG.format(port=port)
    if base is not None:
        config += f'parameters {{ key: "VLLM_BACKEND_DIR" value: {{ string_value: "{base}" }} }}\n'
    (folder / MODEL / "config.pbtxt").write_text(config)
    return folder


def table(windows: dict[str, list[Window]]) -> str:
    """Markdown: medians of each condition, and tokens/s over those of "alone" in the same round, with its range."""
    lines = [
        "| load next to the streams | tokens/s | ratio to alone | lowest | highest | gap p99 ms | longest gap ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in windows.items():
        pairs = zip(values, windows["alone"], strict=True)
        ratios = [value.tokens_per_second / alone.tokens_per_second for value, alone in pairs]
        rate, gap, longest = (statistics.median(column) for column in zip(*values, strict=True))
        figures = (f"{figure:.2f}" for figure in (statistics.median(ratios), min(ratios), max(ratios)))
        lines.append(f"| {name} | {rate:,.0f} | {' | '.join(figures)} | {gap:.0f} | {longest:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["vllm", "null"], default="vllm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4, help="text streams at a time")
    parser.add_argument("--downloads", type=int, default=20, help="slow URLs at a time, in one request")
    parser.add_argument("--download-seconds", type=float, default=10.0, help="how long each takes")
    parser.add_argument("--window", type=float, default=6.0, help="seconds in which tokens are counted")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/media_beside_text.json"))
    options = parser.parse_args()
    found = environment.current()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(media_server(options.download_seconds))
        assembled = backends.assemble(found, folder / "backends")
        base = None
        if options.engine == "null":
            base = Path(shutil.copytree(NULL_BASE, assembled / NULL_BASE.name))
        repository = model_repository(folder / "repository", port, base)
        server = TritonServer(repository, environment=found, backends=assembled, log=folder / "log")
        stack.enter_context(server)
        bench = Bench(server, port, options.downloads, options.streams, options.window)
        conditions = bench.conditions()
        bench.stream([])  # warms up
        windows: dict[str, list[Window]] = {name: [] for name in conditions}
        order = list(conditions)
        for turn in range(options.rounds):
            random.Random(turn).shuffle(order)
            for name in order:
                windows[name].append(bench.stream(conditions[name]))
            print(
                f"round {turn + 1}:", {name: [*map(round, values[-1])] for name, values in windows.items()}, flush=True
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"cores": os.cpu_count(), "machine": platform.platform(), "streams": options.streams}
    rows = {name: [window._asdict() for window in values] for name, values in windows.items()}
    options.out.write_text(json.dumps({**facts, "engine": options.engine, "windows": rows}, indent=1) + "\n")
    print(table(windows))


if __name__ == "__main__":
    main()
