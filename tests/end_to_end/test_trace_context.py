"""Spans of Triton and of vLLM arrive at an OpenTelemetry collector as parts of one trace."""

from __future__ import annotations

import pytest

from tests.support.client import Client
from tests.support.openai_cases import MODEL
from tests.support.trace_collector import VLLM_SPAN, Collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

pytestmark = pytest.mark.usefixtures("traced")


@pytest.fixture(scope="module")
def traced(client: Client, superset: str) -> None:
    """Triton sends its spans of the shared model's requests, which it does not elsewhere."""
    client.trace(superset, trace_level=["TIMESTAMPS"], trace_rate="1")


def test_vllms_span_hangs_from_tritons(client: Client, collector: Collector) -> None:
    assert client.generate(MODEL, text_input="2+3=", id="plain").status == 200
    span = collector.of_request("plain")
    parent = collector.by_id(span.parent_id)
    assert parent.trace_id == span.trace_id
    assert parent.name != VLLM_SPAN


def test_both_are_part_of_the_clients_trace(client: Client, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    with client.sent_stream(MODEL, headers, text_input="2+3=", id="with-header") as connection:
        assert connection.getresponse().status == 200
    span = collector.of_request("with-header")
    assert span.trace_id == TRACE
    assert collector.by_id(span.parent_id).name != VLLM_SPAN


@pytest.mark.parametrize("stream", [True, False])
def test_a_trace_that_is_named_in_the_parameters(client: Client, collector: Collector, stream: bool) -> None:
    request_id = f"parameter-{stream}"
    parameters = {"traceparent": f"00-{OTHER_TRACE}-00f067aa0ba902b7-01"}
    ask = client.stream if stream else client.generate
    ask(MODEL, text_input="2+3=", id=request_id, parameters=parameters)
    span = collector.of_request(request_id)
    assert (span.trace_id, span.parent_id) == (OTHER_TRACE, "00f067aa0ba902b7")
