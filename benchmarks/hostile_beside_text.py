"""Does a small hostile request hold others up? Text streams on the null engine, next to one such request at a time.

    python -m benchmarks.hostile_beside_text

For each input: its answer, after how many seconds it came, the longest gap between pieces of the streams meanwhile, and
by how much the resident memory of the model's process has grown a second later. The first row is a right request.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.media_beside_text import MODEL, NULL_BASE, Bench, Window, model_repository
from tests.support.hostile_inputs import INPUTS, Hostile
from tools.installer import backends, environment
from tools.installer.server import TritonServer

_MIB = 1 << 20
_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=4, help="text streams at a time")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="names of inputs")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/hostile_beside_text.json"))
    options = parser.parse_args()
    plain = Hostile("(a right one)", "for comparison", lambda: {"text_input": "2+3=", "max_tokens": 4})
    chosen = [plain, *(item for item in INPUTS if not options.only or item.name in options.only)]
    found = environment.current()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        assembled = backends.assemble(found, folder / "backends")
        base = Path(shutil.copytree(NULL_BASE, assembled / NULL_BASE.name))
        repository = model_repository(folder / "repository", 9, base)
        log = options.out.parent / "hostile_server.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        server = stack.enter_context(TritonServer(repository, environment=found, backends=assembled, log=log))
        bench = Bench(server, 9, 0, options.streams, 1.0)
        bench.stream([])  # warms up
        rows = [_row(server, bench, item, options.streams) for item in chosen]
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


def _row(server: TritonServer, bench: Bench, item: Hostile, streams: int) -> dict[str, Any]:
    """One input next to the streams."""
    stop = threading.Event()
    arrivals: list[list[tuple[float, int]]] = [[] for _ in range(streams)]
    readers = [threading.Thread(target=bench._read, args=(place, arrivals[place], stop)) for place in range(streams)]
    body = item.body()
    before = _memory(server)
    for thread in readers:
        thread.start()
    time.sleep(1.0)
    began = time.monotonic()
    status, answer = _ask(server, body)
    ended = time.monotonic()
    time.sleep(1.0)
    grown = _memory(server) - before
    stop.set()
    for thread in readers:
        thread.join()
    window = Window.of(arrivals, began, max(ended, began + 0.5))
    row = {
        "input": item.name,
        "bytes": len(body),
        "status": status,
        "seconds": round(ended - began, 2),
        "longest gap ms": round(window.gap_max_ms),
        "grown MiB": round(grown / _MIB),
        "answer": answer[:110],
    }
    print(" | ".join(str(value) for value in row.values()), flush=True)
    return row


def _ask(server: TritonServer, body: bytes) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(server.http_url).netloc, timeout=_SECONDS)
    try:
        connection.request("POST", f"/v2/models/{MODEL}/generate", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)
    finally:
        connection.close()


def _memory(server: TritonServer) -> int:
    """Resident bytes of tritonserver's children: the stub, and what it has started."""
    found = 0
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            found += process.memory_info().rss
        except psutil.NoSuchProcess:  # a worker that was replaced
            continue
    return found


if __name__ == "__main__":
    main()
