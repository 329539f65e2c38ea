"""A collector of OpenTelemetry, which keeps the spans of Triton and of vLLM."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.servers import wait_until

VLLM_SPAN = "llm_request"
# How spans reach a collector.
ENVIRONMENT = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "200"}
_ID = "gen_ai.request.id"


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
        # Spans of clients, which are sent to nobody.
        self.outside: set[str] = set()
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
                if span.name == VLLM_SPAN and str(span.attributes.get(_ID, "")).startswith(request_id)
            ]

        wait_until(lambda: bool(find()))
        (span,) = find()
        return span

    def of_openai_request(self, request_id: str) -> Span:
        """The same, of the OpenAI application's, which puts something before the id."""

        def find() -> list[Span]:
            return [span for span in list(self.spans) if request_id in str(span.attributes.get(_ID, ""))]

        wait_until(lambda: bool(find()))
        (span,) = find()
        return span

    def above(self, span: Span) -> list[Span]:
        """The spans above one, the next one first; waits for those that have not been sent yet."""
        found: list[Span] = []
        while span.parent_id and span.parent_id not in self.outside:
            span = self.by_id(span.parent_id)
            found.append(span)
        return found

    def below(self, span: Span) -> list[str]:
        """Names of the spans that hang from one, so far."""
        return [other.name for other in list(self.spans) if other.parent_id == span.span_id]

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
