"""Which trace vLLM's spans belong to."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.fake_engine import FACTS, FakeEngine
from vllm_custom.contract.settings import Settings
from vllm_custom.handlers import Incoming, RowReader
from vllm_custom.request import ClientRules
from vllm_custom.triton.tracing import span_of

MINE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
CHILD = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}
OTHER = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


def request(context: Any) -> Any:
    return SimpleNamespace(trace=lambda: SimpleNamespace(get_context=lambda: context))


def trace_headers(request: Any, given: dict[str, str] | None, *, traces: bool = True) -> Any:
    """What the engine is told of a request with the parameters ``given``; ``traces``: whether it reports spans."""
    rows = RowReader(
        FakeEngine(facts=replace(FACTS, traces=traces)), Settings.from_model_config({"name": "model"}), ClientRules()
    )
    tensors = {"text_input": np.array([b"hi"], np.object_)}
    incoming = Incoming(tensors, parameters=json.dumps(given or {}), span=span_of(request))
    return rows.parsed(incoming, rows.read(incoming)).trace_headers


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


@pytest.mark.parametrize("given", [None, MINE])
def test_an_engine_that_reports_no_spans_hears_of_none(given: dict[str, str] | None) -> None:
    """vLLM writes a warning for each request with trace headers where nobody collects its spans."""
    assert trace_headers(request(json.dumps(OTHER)), given, traces=False) is None


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (json.dumps(MINE), MINE),
        (json.dumps(MINE | {"baggage": "x"}), MINE),
        (json.dumps(CHILD | {"tracestate": ""}), CHILD),
    ],
)
def test_what_tritons_context_says(context: str, expected: Any) -> None:
    assert span_of(request(context)) == expected
