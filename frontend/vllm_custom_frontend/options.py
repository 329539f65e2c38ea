"""The command line of the frontend."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEYS_VARIABLE = "VLLM_CUSTOM_API_KEYS"
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class ServerOptions:
    """What an HTTP server was told. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 9000
    api_keys: frozenset[str] = frozenset()
    max_body_bytes: int = 64 * _MEBIBYTE
    max_body_values: int = 1_000_000
    cors_origins: tuple[str, ...] = ()
    request_timeout_seconds: float = 0.0
    drain_seconds: int = 30
    shutdown_delay_seconds: float = 0.0
    tls_certificate: str | None = None
    tls_key: str | None = None
    access_log: bool = True
    workers: int = 1


@dataclass(frozen=True)
class Options(ServerOptions):
    """What the frontend was told."""

    triton: tuple[str, ...] = ()
    triton_ca: str | None = None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; ends the process with a message where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_custom_frontend",
        description="OpenAI's HTTP API in front of Triton servers whose models run on vllm_custom.",
    )
    parser.add_argument(
        "--triton",
        action="append",
        metavar="HOST:PORT",
        help="gRPC address of a Triton server; repeat it for several (default: 127.0.0.1:8001)",
    )
    add_server_arguments(parser)
    parser.add_argument("--triton-ca", metavar="FILE", help="use TLS to Triton, with this certificate authority (PEM)")
    given = parser.parse_args(arguments)
    triton = tuple(given.triton or ["127.0.0.1:8001"])
    return Options(**server_arguments(parser, given), triton=triton, triton_ca=given.triton_ca)


def server_arguments(parser: argparse.ArgumentParser, given: argparse.Namespace) -> dict[str, Any]:
    """The fields of :class:`ServerOptions`; ends the process with a message where something is wrong."""
    try:
        keys = _api_keys(given.api_key, given.api_key_file)
    except OSError as error:
        parser.error(f"--api-key-file: cannot be read: {error.strerror}")
    if bool(given.tls_certificate) != bool(given.tls_key):
        parser.error("--tls-certificate and --tls-key must be given together")
    return {
        "host": given.host,
        "port": given.port,
        "api_keys": keys,
        "max_body_bytes": given.max_body_mib * _MEBIBYTE,
        "max_body_values": given.max_body_values,
        "cors_origins": tuple(given.cors_origin),
        "request_timeout_seconds": given.request_timeout,
        "drain_seconds": given.drain_seconds,
        "shutdown_delay_seconds": given.shutdown_delay,
        "tls_certificate": given.tls_certificate,
        "tls_key": given.tls_key,
        "access_log": not given.no_access_log,
        "workers": given.workers,
    }


def _api_keys(given: Sequence[str], file: Path | None) -> frozenset[str]:
    lines = file.read_text(encoding="utf-8").splitlines() if file else []
    listed = os.environ.get(_KEYS_VARIABLE, "").split(",")
    return frozenset(key.strip() for key in (*given, *lines, *listed) if key.strip())


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of :class:`ServerOptions`."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, default=9000, metavar="PORT", help="default: 9000")
    keys = f"a key that clients send as `Authorization: Bearer KEY`; ${_KEYS_VARIABLE} may hold more, with commas"
    add("--api-key", action="append", default=[], metavar="KEY", help=keys)
    add("--api-key-file", type=Path, metavar="FILE", help="a file with one key per line")
    add("--max-body-mib", type=_positive, default=64, metavar="MIB", help="largest request body (default: 64)")
    add(
        "--max-body-values",
        type=_positive,
        default=1_000_000,
        metavar="N",
        help="most JSON values in a request body, such as token ids; commas in texts count (default: 1000000)",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose pages may call this server from a browser; * for all",
    )
    add(
        "--request-timeout",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="time for one request, which the model ends then (504); 5 s later it is ended in any case (default: none)",
    )
    add(
        "--drain-seconds",
        type=_positive,
        default=30,
        metavar="SECONDS",
        help="time for open requests to finish after SIGTERM (default: 30)",
    )
    add(
        "--shutdown-delay",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="time between SIGTERM, from which on /ready says 503, and the moment from which on no requests are taken, "
        "for load balancers to notice (default: 0)",
    )
    add("--tls-certificate", metavar="FILE", help="serve HTTPS with this certificate chain (PEM)")
    add("--tls-key", metavar="FILE", help="the certificate's private key (PEM)")
    add("--no-access-log", action="store_true", help="do not log a line for each request")
    add("--workers", type=_positive, default=1, metavar="N", help="processes that share the port (default: 1)")


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"expected seconds, 0 for none, got {text}")
    return value
