"""Spans of the frontend, of Triton, of this backend and of vLLM arrive at a collector as parts of one trace."""

from __future__ import annotations

import pytest

from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.media_files import Files
from tests.support.openai_cases import MODEL
from tests.support.trace_collector import Collector, Span

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER_TRACE, OTHER_ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OURS = ["engine", "request"]
CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.usefixtures("traced")


@pytest.fixture(scope="module")
def traced(client: Client, superset: str, collector: Collector) -> None:
    """Triton sends its spans of the shared model's requests, which it does not elsewhere."""
    collector.outside |= {ABOVE, OTHER_ABOVE}
    client.trace(superset, trace_level=["TIMESTAMPS"], trace_rate="1")


def names(spans: list[Span]) -> list[str]:
    return [span.name for span in spans]


def test_vllms_span_hangs_from_ours_and_that_from_tritons(client: Client, collector: Collector) -> None:
    assert client.generate(MODEL, text_input="2+3=", id="plain").status == 200
    span = collector.of_request("plain")
    above = collector.above(span)
    assert names(above[:2]) == OURS
    assert len(above) > 2
    assert {each.trace_id for each in above} == {span.trace_id}
    assert sorted(collector.below(above[1])) == ["admission", "engine", "render"]


def test_all_are_part_of_the_clients_trace(client: Client, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{ABOVE}-01"}
    with client.sent_stream(MODEL, headers, text_input="2+3=", id="with-header") as connection:
        assert b"text_output" in connection.getresponse().read()  # who leaves early ends the request
    span = collector.of_request("with-header")
    above = collector.above(span)
    assert names(above[:2]) == OURS
    assert len(above) > 2
    assert {span.trace_id, *(each.trace_id for each in above)} == {TRACE}


@pytest.mark.parametrize("stream", [True, False])
def test_a_trace_that_is_named_in_the_parameters(client: Client, collector: Collector, stream: bool) -> None:
    request_id = f"parameter-{stream}"
    parameters = {"traceparent": f"00-{OTHER_TRACE}-{OTHER_ABOVE}-01"}
    ask = client.stream if stream else client.generate
    ask(MODEL, text_input="2+3=", id=request_id, parameters=parameters)
    above = collector.above(collector.of_request(request_id))
    assert names(above) == OURS
    assert (above[-1].trace_id, above[-1].parent_id) == (OTHER_TRACE, OTHER_ABOVE)


@pytest.mark.parametrize("stream", [True, False])
def test_one_trace_from_the_frontend_to_vllm(
    frontend: Frontend, files: Files, collector: Collector, stream: bool
) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"{files.url}/0.png"}}
    message = {"role": "user", "content": [picture, {"type": "text", "text": "color?"}]}
    body = {"model": MODEL, "messages": [message], "max_tokens": 4, "stream": stream}
    headers = {"traceparent": f"00-{TRACE}-{ABOVE}-01", "x_request_id": f"chat-{stream}"}
    assert frontend.post(CHAT, body, **headers).status == 200
    span = collector.of_openai_request(f"chat-{stream}")
    above = collector.above(span)
    assert {span.trace_id, *(each.trace_id for each in above)} == {TRACE}
    assert names(above[:2]) == OURS
    assert names(above[-2:]) == ["triton", f"POST {CHAT}"]
    assert len(above) > 4, "Triton's own are between the frontend's and ours"
    assert above[-1].parent_id == ABOVE
    request = above[1]
    assert {"admission", "render", "engine"} <= set(collector.below(request))
    (render,) = [each for each in collector.spans if each.name == "render" and each.parent_id == request.span_id]
    assert "media.fetch" in collector.below(render)
