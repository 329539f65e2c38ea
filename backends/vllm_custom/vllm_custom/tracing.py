"""W3C Trace Context of a request: the client's own, or the span that Triton has opened for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_HEADERS = ("traceparent", "tracestate")


def trace_headers(request: Any, given: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """What vLLM's spans hang from.

    Args:
        request: a ``pb_utils.InferenceRequest``; where tritonserver traces in OpenTelemetry's mode it has a context.
        given: the request parameters traceparent and tracestate.

    Returns:
        Triton's span, unless the client named another trace than the one that this span is part of.
    """
    ours = _of_triton(request)
    if ours is None or (given is not None and _trace_id(given) != _trace_id(ours)):
        return given
    return ours


def _of_triton(request: Any) -> dict[str, str] | None:
    trace = getattr(request, "trace", None)
    context = trace().get_context() if trace is not None else None
    if not context:
        return None
    try:
        found = json.loads(context)
    except ValueError:
        return None
    return {name: found[name] for name in _HEADERS if found.get(name)} or None


def _trace_id(headers: Mapping[str, str]) -> str:
    parts = headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) > 1 else ""
