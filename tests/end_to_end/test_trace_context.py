"""Spans of Triton and of vLLM arrive at an OpenTelemetry collector as parts of one trace."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.client import Client
from tests.support.server_fixtures import Repository, wait_until
from tools.installer import backends, environment
from tools.installer.server import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.engine]

MODEL = "traced"
CONFIG = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
VLLM_SPAN = "llm_request"
TRACE = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True)
class Span:
    """Ids as lower-case hexadecimal text."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]


class Collector:
    """Takes OTLP over HTTP, protobuf and JSON, and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                is_json = "json" in self.headers.get("content-type", "")
                collector.spans += from_json(body) if is_json else from_protobuf(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of_request(self, request_id: str) -> Span:
        """vLLM's span of one request; waits for it."""

        def find() -> list[Span]:
            return [
                span
                for span in list(self.spans)
                if span.name == VLLM_SPAN and str(span.attributes.get("gen_ai.request.id", "")).startswith(request_id)
            ]

        wait_until(lambda: bool(find()))
        (span,) = find()
        return span

    def by_id(self, span_id: str) -> Span:
        """A span that has been or will be sent."""
        wait_until(lambda: any(span.span_id == span_id for span in list(self.spans)))
        return next(span for span in self.spans if span.span_id == span_id)


def from_protobuf(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            {item.key: item.value.string_value for item in span.attributes},
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def from_json(body: bytes) -> list[Span]:
    return [
        Span(
            span["name"],
            span["traceId"].lower(),
            span["spanId"].lower(),
            span.get("parentSpanId", "").lower(),
            {item["key"]: next(iter(item["value"].values()), "") for item in span.get("attributes", [])},
        )
        for resource in json.loads(body)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def client(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of its own: whether Triton traces is decided when it starts."""
    folder = tmp_path_factory.mktemp("traced")
    repository = Repository(folder / "repository")
    repository.add(MODEL, CONFIG, repository.shapes_args(otlp_traces_endpoint=collector.url))
    found = environment.current()
    settings = ("mode=opentelemetry", f"opentelemetry,url={collector.url}", "rate=1", "level=TIMESTAMPS")
    server = TritonServer(
        repository.folder,
        environment=found,
        backends=backends.assemble(found, folder / "backends"),
        log=folder / "server.log",
        env={"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "200"},
        extra=[f"--trace-config={setting}" for setting in settings],
    )
    with server:
        yield Client(server.http_url, server.metrics_url)


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
