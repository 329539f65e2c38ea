"""How fast tokens leave the server: the real tritonserver and backend on an engine that makes tokens at a fixed rate.

    python -m benchmarks.null_engine --streams 1 16 64 256 1000

Variants: `merged` is vllm_custom; `unmerged` is vllm_custom with one response per token; `base` is the base class by
itself, which is the official backend where --base names its folder; `reporting` is `merged` with REPORT_CUSTOM_METRICS,
and then the engine feeds vLLM's Prometheus logger in all variants, as vLLM's own engine does. All are loaded in one
server and take turns. With --fronts each variant is loaded once for each number of processes that share its engine.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Cell, ClientPool, summarise
from benchmarks.null_server import NullModel, null_server
from benchmarks.protocols import Record, Target
from benchmarks.report import milliseconds, number, table, write_json
from tools.installer.server import TritonServer

VARIANTS = {
    "merged": "vllm_custom",
    "unmerged": "vllm_custom_unmerged",
    "base": "null_base",
    "reporting": "vllm_custom",
}
_COLUMNS = {
    "tokens/s": number("tokens_per_second"),
    "chunks/s": number("chunks_per_second"),
    "tokens per chunk": number("tokens_per_chunk", 2),
    "first token p50 / p99 ms": milliseconds("first_p50", "first_p99"),
    "gap p50 / p99 ms": milliseconds("gap_p50", "gap_p99"),
    "CPU s: stub": number("cpu_stub", 2),
    "tritonserver": number("cpu_server", 2),
}


def main() -> None:
    options = _options()
    cells = [
        Cell(f"{streams} streams", streams, streams * options.requests_per_stream, options.tokens)
        for streams in options.streams
    ]
    rows: list[dict[str, Any]] = []
    with _server(options) as server, ClientPool(options.client_processes) as clients:
        address = server.grpc_url if options.protocol == "grpc" else server.http_url
        targets = [Target(name, options.protocol, address, name) for name in _models(options)]
        for target in targets:
            clients.run(target, Cell("warm-up", 4, 8, 8))
        for cell in cells:
            for turn in range(options.rounds):
                for target in targets if turn % 2 == 0 else reversed(targets):
                    before = _cpu(server)
                    records = clients.run(target, cell)
                    after = _cpu(server)
                    _check(records, cell)
                    used = {f"cpu_{name}": after[name] - before[name] for name in after}
                    rows.append(summarise(target.name, cell, records).row() | used)
                    write_json(options.out, rows, interval_ms=options.interval_ms, work_us=options.work_us)
                    time.sleep(0.3)
    print(table(rows, _COLUMNS, baseline=next(iter(_models(options)))))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256, 1000])
    parser.add_argument("--tokens", type=int, default=64, help="of each request")
    parser.add_argument("--interval-ms", type=float, default=10.0, help="time between a stream's tokens")
    parser.add_argument("--work-us", type=float, default=0.0, help="time the event loop spends on each token besides")
    parser.add_argument("--requests-per-stream", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS)[:3])
    parser.add_argument("--fronts", type=int, nargs="+", default=[1], help="instances of a model on one engine")
    parser.add_argument("--base", type=Path, help="the official backend's folder with model.py; else the stand-in")
    parser.add_argument("--protocol", choices=["grpc", "generate"], default="grpc")
    parser.add_argument("--client-processes", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/null_engine.json"))
    return parser.parse_args()


def _models(options: argparse.Namespace) -> dict[str, tuple[str, int]]:
    """Name of each model to its variant and how many fronts it has."""
    if options.fronts == [1]:
        return {variant: (variant, 1) for variant in options.variants}
    return {f"{variant}_{count}": (variant, count) for variant in options.variants for count in options.fronts}


def _server(options: argparse.Namespace) -> contextlib.AbstractContextManager[TritonServer]:
    """A tritonserver with one model per variant, all on the null engine."""
    models = {
        name: NullModel(fronts, VARIANTS[variant], {"REPORT_CUSTOM_METRICS": "true"} if variant == "reporting" else {})
        for name, (variant, fronts) in _models(options).items()
    }
    env = {"NULL_ENGINE_INTERVAL_MS": str(options.interval_ms), "NULL_ENGINE_WORK_US": str(options.work_us)}
    if "reporting" in options.variants:
        env["NULL_ENGINE_STATS"] = "1"
    if options.base is not None:
        env["NULL_ENGINE_BASE"] = str(options.base.resolve())
    return null_server(models, options.out.parent / "null_engine_server.log", env)


def _check(records: list[Record], cell: Cell) -> None:
    """Every answer has all tokens, in order: whatever was merged."""
    expected = "".join(f" {index}" for index in range(cell.max_tokens))
    for record in records:
        if record.text != expected:
            raise SystemExit(f"{cell.name}: expected {expected!r}, got {record.text!r}")


def _cpu(server: TritonServer) -> dict[str, float]:
    """CPU seconds so far of tritonserver and of the stubs below it."""
    process = psutil.Process(server.pid)
    stubs = [child for child in process.children() if "triton_python_backend_stub" in " ".join(child.cmdline())]
    times = [child.cpu_times() for child in stubs]
    own = process.cpu_times()
    return {"server": own.user + own.system, "stub": sum(each.user + each.system for each in times)}


if __name__ == "__main__":
    main()
