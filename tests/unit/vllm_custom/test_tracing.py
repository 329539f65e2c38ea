"""Which trace vLLM's spans belong to."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.tracing import trace_headers

MINE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
CHILD = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}
OTHER = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


def request(context: Any) -> Any:
    return SimpleNamespace(trace=lambda: SimpleNamespace(get_context=lambda: context))


@pytest.mark.parametrize(
    ("context", "given", "expected"),
    [
        (None, None, None),
        (None, MINE, MINE),
        (json.dumps(OTHER), None, OTHER),
        (json.dumps(CHILD), MINE, CHILD),  # Triton's span hangs from the client's: the nearest one
        (json.dumps(OTHER), MINE, MINE),  # a trace that the client named is not left for another
        (json.dumps(OTHER), {"tracestate": "a=b"}, {"tracestate": "a=b"}),
        ("", MINE, MINE),
        ("{}", None, None),
        ("no JSON", None, None),
    ],
)
def test_tritons_span_unless_the_client_named_another_trace(context: Any, given: Any, expected: Any) -> None:
    assert trace_headers(request(context), given) == expected


def test_a_triton_without_trace_context() -> None:
    assert trace_headers(SimpleNamespace(), MINE) == MINE
