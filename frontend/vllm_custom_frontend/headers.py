"""Which of a request's headers go on to the application."""

from __future__ import annotations

from starlette.datastructures import Headers

from vllm_custom_frontend import errors
from vllm_custom_frontend.trace_context import TRACE_HEADERS, trace_context

# What the application looks at; the rest, keys and cookies above all, ends here.
_FORWARDED = ("content-type", "traceparent", "tracestate", "x-session-id", "x-data-parallel-rank")
_MAX_HEADER_CHARACTERS = 4096


def forwarded(given: Headers, request_id: str) -> dict[str, str]:
    """Headers for the application, by names in lower case.

    Raises:
        FrontendError: one is too long.
    """
    headers = {name: given[name] for name in _FORWARDED if name in given}
    for name, value in headers.items():
        if len(value) > _MAX_HEADER_CHARACTERS:
            raise errors.header_too_long(name, _MAX_HEADER_CHARACTERS, len(value))
    headers = {name: value for name, value in headers.items() if name not in TRACE_HEADERS} | trace_context(headers)
    headers.setdefault("content-type", "")  # none at all is the application's to refuse
    headers["x-request-id"] = request_id
    return headers
