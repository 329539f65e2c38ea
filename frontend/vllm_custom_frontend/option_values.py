"""Values of the command line: each function reads one, and raises argparse.ArgumentTypeError where it is wrong."""

from __future__ import annotations

import argparse

_LAST_PORT = 65_535
# Of any number of an option.
_LARGEST = 1_000_000_000


def address(text: str) -> str:
    """An address to listen on. An empty one would mean all addresses of this machine."""
    given = text.strip()
    if given.startswith("[") and given.endswith("]"):
        given = given[1:-1]
    if not given:
        raise argparse.ArgumentTypeError("expected an address, got none (0.0.0.0 and :: mean all of this machine's)")
    return given


def collector(text: str) -> str:
    """A URL. A command line is read by all that can list processes, so credentials are refused."""
    if "@" in text:
        raise argparse.ArgumentTypeError("expected a URL without credentials, which $OTEL_EXPORTER_OTLP_HEADERS has")
    return text.strip()


def triton_address(text: str) -> str:
    """HOST:PORT of a gRPC server."""
    host, colon, number = text.strip().rpartition(":")
    if not (colon and host and number.isdecimal() and 0 < int(number) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT with a port from 1 to {_LAST_PORT}, got {text!r}")
    bare = host.removeprefix("[").removesuffix("]")
    if (":" in bare) != (host == f"[{bare}]"):
        raise argparse.ArgumentTypeError(f"expected an IPv6 address in brackets, as [::1]:8001, got {text!r}")
    return f"{host}:{number}"


def port(text: str) -> int:
    """A port to listen on; 0 for one that is free."""
    value = _whole(text)
    if value is None or not 0 <= value <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {_LAST_PORT}, got {text!r}")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = _whole(text)
    if value is None or not 1 <= value <= _LARGEST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {_LARGEST}, got {text!r}")
    return value


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def seconds(text: str) -> float:
    """A time in seconds; 0 for none."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _LARGEST:
        raise argparse.ArgumentTypeError(f"expected seconds from 0, for none, to {_LARGEST}, got {text!r}")
    return value
