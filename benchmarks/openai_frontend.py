"""What the ways to OpenAI's API cost, compared with `vllm serve`, and the frontend by itself.

    python -m benchmarks.openai_frontend streams             the frontend alone, before a gRPC server that only sends
    python -m benchmarks.openai_frontend serving             against `vllm serve`, same model and arguments

`streams` opens many streams at a time. The server at the other end of the gRPC connection sends each of them an event
every --interval-ms, as a model would, and needs no time for it. `direct` is a gRPC client in the frontend's place.
`serving` starts one server after the other, since both need the machine's cores for the engine; in each pair the other
one goes first. Ours has two ways to one engine: the frontend over gRPC, and the direct server. The CPU time is that of
all processes but the engine's. All processes are of one session: where cores are scarce, Linux does not treat sessions
alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tools.installer import backends, environment, ports
from tools.installer.paths import BACKEND_SOURCES, DEFAULT_REPOSITORY, FRONTEND_SOURCES
from tools.installer.server import TritonServer, child_environment

CHAT = "/v1/chat/completions"
# vLLM's names of its engine's processes.
_ENGINE = "VLLM::"
_EVENT = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)


@dataclass
class Run:
    """Figures of one measurement; times in seconds."""

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    events: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """For the table and for --out."""
        return {
            "name": self.name,
            "requests_per_second": len(self.whole) / self.seconds,
            "events": self.events,
            "events_per_second": self.events / self.seconds,
            "first_p50": statistics.median(self.first) if self.first else None,
            "whole_p50": statistics.median(self.whole),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }


# The frontend alone


class Sender(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton server that has one model and sends events at fixed times."""

    def __init__(self, tokens: int, interval_seconds: float) -> None:
        self._tokens = tokens
        self._interval = interval_seconds

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        index = service_pb2.RepositoryIndexResponse()
        index.models.add(name="m", version="1", state="READY")
        return index

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        metadata = service_pb2.ModelMetadataResponse(name="m")
        metadata.inputs.add(name="openai_request", datatype="BYTES").shape.extend([1])
        return metadata

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for request in requests:
            if b"/v1/models" in request.raw_input_contents[0]:
                yield _response(b'{"data": [{"id": "m"}]}', 200, "application/json")
                continue
            start = time.monotonic()
            for number in range(self._tokens):
                yield _response(_EVENT, 0 if number else 200, "text/event-stream")
                wait = start + (number + 1) * self._interval - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
            yield _response(b"data: [DONE]\n\n", 0, "")


def _response(body: bytes, status: int, kind: str) -> Any:
    response = service_pb2.ModelStreamInferResponse()
    inner = response.infer_response
    headers = json.dumps({"content-type": kind}).encode()
    outputs = [
        ("openai_response", "BYTES", struct.pack("<I", len(body)) + body),
        ("openai_status", "INT32", struct.pack("<i", status)),
        ("openai_headers", "BYTES", struct.pack("<I", len(headers)) + headers),
    ]
    for name, datatype, raw in outputs if status else outputs[:1]:
        inner.outputs.add(name=name, datatype=datatype).shape.extend([1])
        inner.raw_output_contents.append(raw)
    return response


def _run_sender(port: int, tokens: int, interval_seconds: float) -> None:
    async def serve() -> None:
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Sender(tokens, interval_seconds), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


@contextlib.contextmanager
def _sender(options: argparse.Namespace) -> Iterator[str]:
    port = ports.choose("127.0.0.1", 0, "--port", set())
    arguments = (port, options.tokens, options.interval_ms / 1000)
    process = multiprocessing.get_context("spawn").Process(target=_run_sender, args=arguments)
    process.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


def _frontend(triton: str) -> contextlib.AbstractContextManager[tuple[str, int]]:
    """Address and process id of a frontend."""
    return _started("vllm_custom_frontend", f"--triton={triton}")


@contextlib.contextmanager
def _started(module: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """Address and process id of an HTTP server of ours."""
    port = ports.choose("127.0.0.1", 0, "--port", set())
    python = str(environment.current().folder / "bin/python")
    command = [python, "-m", module, f"--port={port}", "--no-access-log", *arguments]
    sources = os.pathsep.join([str(BACKEND_SOURCES / "vllm_custom"), str(FRONTEND_SOURCES)])
    env = child_environment(environment.current(), {"PYTHONPATH": sources})
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


async def _direct(address: str, streams: int) -> Run:
    run = Run("direct")
    async with grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def one() -> None:
            began = time.monotonic()
            call = stub.ModelStreamInfer()
            request = service_pb2.ModelInferRequest(model_name="m")
            request.raw_input_contents.append(b"{}")
            await call.write(request)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                if not run.events or len(run.first) < streams:
                    run.first.append(time.monotonic() - began)
                run.events += 1
            run.whole.append(time.monotonic() - began)

        await _timed(run, [one() for _ in range(streams)])
    return run


async def _timed(run: Run, jobs: list[Any]) -> None:
    began = time.monotonic()
    await asyncio.gather(*jobs)
    run.seconds = time.monotonic() - began


async def _load(name: str, url: str, body: dict[str, Any], concurrency: int, requests: int) -> Run:
    """Send ``requests`` of the same body, ``concurrency`` at a time."""
    run = Run(name)
    remaining = iter(range(requests))
    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def worker() -> None:
            for _ in remaining:
                began = time.monotonic()
                async with session.post(url + CHAT, json=body) as response:
                    first = True
                    async for chunk in response.content.iter_any():
                        if first:
                            run.first.append(time.monotonic() - began)
                            first = False
                        run.events += chunk.count(b"\n\n")
                    assert response.status == 200, await response.text()
                run.whole.append(time.monotonic() - began)

        await _timed(run, [worker() for _ in range(concurrency)])
    return run


async def _wait_ready(url: str, path: str = "/health") -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(2400):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url + path) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise TimeoutError(url)


def _streams(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    body = {"model": "m", "stream": True}
    for streams in options.streams:
        with _sender(options) as address, _frontend(address) as (url, pid):
            asyncio.run(_wait_ready(url))
            for _ in range(options.rounds):
                rows.append(asyncio.run(_direct(address, streams)).row() | {"streams": streams})
                before = _cpu(pid)
                run = asyncio.run(_load("frontend", url, body, streams, streams))
                run.cpu_seconds = _cpu(pid) - before
                expected = streams * (options.tokens + 1)
                assert run.events == expected, f"{run.events} events of {expected}"
                rows.append(run.row() | {"streams": streams})
    return rows


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


# Against vllm serve


@dataclass(frozen=True)
class Way:
    """A way to OpenAI's API: its name, its address, and the first of the processes on it."""

    name: str
    url: str
    roots: tuple[int, ...]

    def cpu(self) -> float:
        """Seconds that all processes on it have used, but those of the engine."""
        total = 0.0
        for root in self.roots:
            first = psutil.Process(root)
            for process in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += 0.0 if process.name().startswith(_ENGINE) else _cpu(process.pid)
        return total


@contextlib.contextmanager
def _vllm_serve(options: argparse.Namespace) -> Iterator[list[Way]]:
    model = DEFAULT_REPOSITORY / "shapes_vl/1"
    port = ports.choose("127.0.0.1", 0, "--port", set())
    given = json.loads((model / "model.json").read_text())
    command = [str(environment.current().folder / "bin/python"), "-m", "vllm.entrypoints.openai.api_server"]
    command += [f"--port={port}", "--served-model-name=m", "--disable-uvicorn-access-log"]
    for name, value in {**_without_lora(given), "model": str(model / given["model"])}.items():
        flag = f"--{name.replace('_', '-')}"
        command.append(flag if value is True else f"{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    env = child_environment(environment.current())
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield [Way("vllm serve", f"http://127.0.0.1:{port}", (process.pid,))]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _triton(options: argparse.Namespace) -> Iterator[list[Way]]:
    """Triton with the model `m`, a frontend, and a direct server on the same engine."""
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "repository/m/1"
        version.mkdir(parents=True)
        source = DEFAULT_REPOSITORY / "shapes_vl/1"
        given = json.loads((source / "model.json").read_text())
        arguments = {**_without_lora(given), "model": str(source / given["model"])}
        (version / "model.json").write_text(json.dumps(arguments))
        config = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
        config += 'parameters { key: "SHARE_ENGINE" value: { string_value: "true" } }\n'
        (version.parent / "config.pbtxt").write_text(config)
        found = environment.current()
        assembled = backends.assemble(found, Path(folder) / "backends")
        log = Path(folder) / "log"
        server = TritonServer(version.parents[1], environment=found, backends=assembled, log=log)
        direct = _started("vllm_custom_direct", f"--workers={options.workers}")
        with server, _frontend(server.grpc_url) as (url, pid), direct as (direct_url, direct_pid):
            yield [
                Way("triton + frontend", url, (server.pid, pid)),
                Way("direct", direct_url, (server.pid, direct_pid)),
            ]


def _without_lora(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if "lora" not in name}


def _serving(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    servers = [_vllm_serve, _triton]
    for server in [one for pair in range(options.pairs) for one in servers[:: -1 if pair % 2 else 1]]:
        with server(options) as ways:
            for way in ways:
                asyncio.run(_wait_ready(way.url))
            for concurrency, streamed in itertools.product(options.concurrency, (False, True)):
                cell = f"{'streamed' if streamed else 'whole'}, {concurrency} at a time"
                for number in range(options.rounds + 1):
                    for way in ways[:: -1 if number % 2 else 1]:
                        row = _measured(way, options, concurrency, streamed) | {"cell": cell}
                        rows += [row] if number else []  # the first one warms up
    return rows


def _measured(way: Way, options: argparse.Namespace, concurrency: int, streamed: bool) -> dict[str, Any]:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Describe the image."}],
        "temperature": 0,
        "ignore_eos": True,
        "max_tokens": options.tokens,
        "stream": streamed,
    }
    before = way.cpu()
    run = asyncio.run(_load(way.name, way.url, body, concurrency, options.requests))
    run.cpu_seconds = way.cpu() - before
    return run.row()


def _report(rows: list[dict[str, Any]], group: str, measure: str) -> None:
    """Medians over the rounds, and the second server's as a share of the first's."""
    for value in dict.fromkeys(row[group] for row in rows):
        baseline: float | None = None
        for name in dict.fromkeys(row["name"] for row in rows):
            chosen = [row for row in rows if row["name"] == name and row[group] == value]
            median = statistics.median(row[measure] for row in chosen)
            first = statistics.median(row["first_p50"] for row in chosen)
            cpu = statistics.median(row["cpu_seconds"] for row in chosen)
            baseline = baseline or median
            per_event = sorted(1e6 * row["cpu_seconds"] / row["events"] for row in chosen if row["events"])
            each = f" ({per_event[0]:.0f} to {per_event[-1]:.0f}) us per event" if per_event else ""
            each = f"{statistics.median(per_event):.0f}{each}" if per_event else ""
            print(
                f"{group} {value}: {name}: {median:.1f} {measure}, ratio {median / baseline:.2f}, "
                f"first after {first * 1000:.0f} ms" + (f", CPU time {cpu:.2f} s, {each}" if cpu else "")
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["streams", "serving"])
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--tokens", type=int, default=32, help="events, or tokens, of each request")
    parser.add_argument("--interval-ms", type=float, default=100.0, help="time between a stream's events")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--workers", type=int, default=1, help="processes of the direct server")
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3, help="of each start of a server")
    parser.add_argument("--pairs", type=int, default=2, help="for `serving`: how often both servers are started")
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    options = parser.parse_args()
    rows = _streams(options) if options.what == "streams" else _serving(options)
    _report(rows, *(("streams", "events_per_second") if options.what == "streams" else ("cell", "requests_per_second")))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
