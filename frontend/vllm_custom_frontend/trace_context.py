"""W3C Trace Context as clients send it."""

from __future__ import annotations

from collections.abc import Mapping

# The standard asks that 512 characters of vendors be passed on; version 00 of the other has 55.
_MOST_CHARACTERS = {"traceparent": 128, "tracestate": 512}
TRACE_HEADERS = frozenset(_MOST_CHARACTERS)


def trace_context(headers: Mapping[str, str]) -> dict[str, str]:
    """W3C Trace Context in ``headers``, as far as it costs nothing to read.

    Some versions of OpenTelemetry take seconds for long headers, and gRPC takes a few kilobytes of headers.
    """
    return {
        name: value
        for name, most in _MOST_CHARACTERS.items()
        if (value := headers.get(name)) and len(value) <= most and value.isascii() and value.isprintable()
    }
