"""W3C Trace Context as clients send it: headers that are passed on only where they cost nothing."""

from __future__ import annotations

# The standard asks that 512 characters of vendors be passed on; version 00 of the other has 55.
_MOST_CHARACTERS = {"traceparent": 128, "tracestate": 512}
TRACE_HEADERS = tuple(_MOST_CHARACTERS)


def is_usable(name: str, value: object) -> bool:
    """Whether the header ``name``, one of TRACE_HEADERS, may be read.

    Some versions of OpenTelemetry take seconds for a long one, and write what they cannot read to the log.
    """
    return isinstance(value, str) and len(value) <= _MOST_CHARACTERS[name] and value.isascii() and value.isprintable()
