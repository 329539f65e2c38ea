"""The command line of the frontend."""

from __future__ import annotations

import argparse
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_custom_frontend.keys import KEYS_FILE_VARIABLE, KEYS_VARIABLE, api_keys
from vllm_custom_frontend.logs import JSON, TEXT
from vllm_custom_frontend.option_values import address, collector, port, positive, seconds, triton_address

_SCRIPT = "vllm-custom-frontend"
_KIBIBYTE = 1024
_MEBIBYTE = 1024 * 1024


class OptionError(Exception):
    """An option, or a variable of the environment, that cannot be used."""


@dataclass(frozen=True)
class ServerOptions:
    """What an HTTP server was told. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 9000
    api_keys: frozenset[str] = frozenset()
    key_names: Mapping[str, str] = field(default_factory=dict)
    max_body_bytes: int = 64 * _MEBIBYTE
    max_body_values: int = 1_000_000
    max_header_bytes: int = 64 * _KIBIBYTE
    max_headers: int = 256
    header_timeout_seconds: float = 30.0
    body_timeout_seconds: float = 300.0
    keep_alive_seconds: int = 5
    cors_origins: tuple[str, ...] = ()
    request_timeout_seconds: float = 0.0
    drain_seconds: int = 30
    shutdown_delay_seconds: float = 0.0
    tls_certificate: str | None = None
    tls_key: str | None = None
    access_log: bool = True
    log_format: str = TEXT
    log_level: str = "info"
    otlp_traces_endpoint: str = ""
    workers: int = 1


@dataclass(frozen=True)
class Options(ServerOptions):
    """What the frontend was told."""

    triton: tuple[str, ...] = ()
    triton_ca: str | None = None


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; ends the process with a message where it is wrong."""
    parser = argparse.ArgumentParser(
        prog=_SCRIPT if Path(sys.argv[0]).name == _SCRIPT else "python -m vllm_custom_frontend",
        description="OpenAI's HTTP API in front of Triton servers whose models run on vllm_custom.",
    )
    parser.add_argument(
        "--triton",
        action="append",
        type=triton_address,
        metavar="HOST:PORT",
        help="gRPC address of a Triton server; repeat it for several (default: 127.0.0.1:8001)",
    )
    add_server_arguments(parser)
    parser.add_argument("--triton-ca", metavar="FILE", help="use TLS to Triton, with this certificate authority (PEM)")
    given = parser.parse_args(arguments)
    if given.triton_ca:
        _check_file(parser, "--triton-ca", given.triton_ca)
    triton = tuple(given.triton or ["127.0.0.1:8001"])
    return Options(**server_arguments(parser, given), triton=triton, triton_ca=given.triton_ca)


def server_arguments(parser: argparse.ArgumentParser, given: argparse.Namespace) -> dict[str, Any]:
    """The fields of :class:`ServerOptions`; ends the process with a message where something is wrong."""
    try:
        keys = api_keys(given.api_key, given.api_key_file)
    except ValueError as error:
        parser.error(str(error))
    if bool(given.tls_certificate) != bool(given.tls_key):
        parser.error("--tls-certificate and --tls-key must be given together")
    if given.tls_certificate:
        _check_tls(parser, given.tls_certificate, given.tls_key)
    return {
        "host": given.host,
        "port": given.port,
        "api_keys": frozenset(keys),
        "key_names": keys,
        "max_body_bytes": given.max_body_mib * _MEBIBYTE,
        "max_body_values": given.max_body_values,
        "max_header_bytes": given.max_header_kib * _KIBIBYTE,
        "max_headers": given.max_headers,
        "header_timeout_seconds": given.header_timeout,
        "body_timeout_seconds": given.body_timeout,
        "keep_alive_seconds": given.keep_alive,
        "cors_origins": tuple(given.cors_origin),
        "request_timeout_seconds": given.request_timeout,
        "drain_seconds": given.drain_seconds,
        "shutdown_delay_seconds": given.shutdown_delay,
        "tls_certificate": given.tls_certificate,
        "tls_key": given.tls_key,
        "access_log": not given.no_access_log,
        "log_format": given.log_format,
        "log_level": given.log_level,
        "otlp_traces_endpoint": given.otlp_traces_endpoint,
        "workers": given.workers,
    }


def _check_tls(parser: argparse.ArgumentParser, certificate: str, key: str) -> None:
    """Ends the process where a server could not use them."""
    for flag, file in (("--tls-certificate", certificate), ("--tls-key", key)):
        _check_file(parser, flag, file)
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        expected = "expected a certificate in PEM and its key without a password"
        parser.error(f"--tls-certificate, --tls-key: {expected} ({reason})")


def _check_file(parser: argparse.ArgumentParser, flag: str, file: str) -> None:
    try:
        Path(file).read_bytes()
    except OSError as error:
        parser.error(f"{flag}: {file} cannot be read: {error.strerror}")


def _add_limits(add: Callable[..., object]) -> None:
    add("--max-body-mib", type=positive, default=64, metavar="MIB", help="largest request body (default: 64)")
    add(
        "--max-body-values",
        type=positive,
        default=1_000_000,
        metavar="N",
        help="most JSON values in a request body, such as token ids; commas in texts count (default: 1000000)",
    )
    add(
        "--max-header-kib",
        type=positive,
        default=64,
        metavar="KIB",
        help="largest request line and headers together (default: 64)",
    )
    add("--max-headers", type=positive, default=256, metavar="N", help="most request headers (default: 256)")
    add(
        "--header-timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="time for the headers of a request, from the connection or the request's first byte (default: 30)",
    )
    add(
        "--body-timeout",
        type=seconds,
        default=300.0,
        metavar="SECONDS",
        help="time for the body of a request (default: 300)",
    )
    add(
        "--keep-alive",
        type=positive,
        default=5,
        metavar="SECONDS",
        help="time that a connection stays open between two requests (default: 5)",
    )


def _add_access(add: Callable[..., object]) -> None:
    keys = f"a key that clients send as `Authorization: Bearer KEY`; ${KEYS_VARIABLE} may hold more, with commas"
    add("--api-key", action="append", default=[], metavar="KEY", help=keys)
    file = f"a file with one key per line; # begins a comment line; ${KEYS_FILE_VARIABLE} may name another one"
    add("--api-key-file", type=Path, metavar="FILE", help=file)
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose pages may call this server from a browser; * for all",
    )
    add("--tls-certificate", metavar="FILE", help="serve HTTPS with this certificate chain (PEM)")
    add("--tls-key", metavar="FILE", help="the certificate's private key (PEM)")


def _add_times(add: Callable[..., object]) -> None:
    add(
        "--request-timeout",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="time for one request, which the model ends then (504); 5 s later it is ended in any case (default: none)",
    )
    add(
        "--drain-seconds",
        type=positive,
        default=30,
        metavar="SECONDS",
        help="time for open requests to finish after SIGTERM (default: 30)",
    )
    add(
        "--shutdown-delay",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="time between SIGTERM, from which on /ready says 503, and the moment from which on no requests are taken, "
        "for load balancers to notice (default: 0)",
    )


def _add_logging(add: Callable[..., object]) -> None:
    add("--no-access-log", action="store_true", help="do not log a line for each request")
    add("--log-format", choices=[TEXT, JSON], default=TEXT, help="json: a JSON object in each line (default: text)")
    levels = ["debug", "info", "warning", "error"]
    add("--log-level", choices=levels, default="info", help="which lines are logged (default: info)")
    add(
        "--otlp-traces-endpoint",
        type=collector,
        default="",
        metavar="URL",
        help="collector that gets OpenTelemetry spans; none for no spans (default: what "
        "$OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or $OTEL_EXPORTER_OTLP_ENDPOINT say)",
    )


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of :class:`ServerOptions`."""
    add = parser.add_argument
    add(
        "--host",
        type=address,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1)",
    )
    add("--port", type=port, default=9000, metavar="PORT", help="default: 9000")
    _add_access(add)
    _add_limits(add)
    _add_times(add)
    _add_logging(add)
    add("--workers", type=positive, default=1, metavar="N", help="processes that share the port (default: 1)")
