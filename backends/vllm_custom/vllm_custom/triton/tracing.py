"""W3C Trace Context of the span that Triton has opened for a request."""

from __future__ import annotations

import json
from typing import Any

from vllm_custom.contract.trace_context import TRACE_HEADERS


def span_of(request: Any) -> dict[str, str] | None:
    """The headers; None where tritonserver does not trace in OpenTelemetry's mode.

    ``request`` is a ``pb_utils.InferenceRequest``.
    """
    trace = getattr(request, "trace", None)
    context = trace().get_context() if trace is not None else None
    if not context:
        return None
    try:
        found = json.loads(context)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {name: found[name] for name in TRACE_HEADERS if found.get(name)} or None
