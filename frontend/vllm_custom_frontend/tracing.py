"""Spans of requests and of what they ask of Triton, by OpenTelemetry, which is imported only where they are wanted."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_custom_frontend.access_log import entry_of
from vllm_custom_frontend.options import OptionError
from vllm_custom_frontend.routes import OPEN_PATHS, READY_PREFIX, label_of
from vllm_custom_frontend.trace_context import trace_context

_HEADERS = frozenset({b"traceparent", b"tracestate"})
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_INSECURE = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")
_CLOSE_SECONDS = 5.0
_NONE = "none"
_OTHER = "other"
_FIRST_DEFECT = 500
_SPAN = "vllm_custom_frontend.span"


class Tracer:
    """Begins spans, and sends those that have ended to a collector from a thread of its own."""

    def __init__(self, provider: Any) -> None:
        """``provider``: OpenTelemetry's TracerProvider."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("vllm_custom_frontend")
        self._kinds = trace.SpanKind
        self._error = trace.StatusCode.ERROR
        self._with_span = trace.set_span_in_context
        self._propagator = TraceContextTextMapPropagator()
        # A line for each header of a client's that it cannot read.
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)

    @classmethod
    def configured(cls, endpoint: str) -> Tracer | None:
        """One that sends to ``endpoint``, or to where OTEL_* say if that is empty; None where spans are not asked for.

        Raises:
            OptionError: OpenTelemetry's packages are missing, or its variables are wrong.
        """
        if not _wanted(endpoint):
            return None
        try:
            return cls(_provider(endpoint))
        except ImportError as error:
            raise OptionError(
                "--otlp-traces-endpoint: needs the packages opentelemetry-sdk and opentelemetry-exporter-otlp, as "
                "pip install 'vllm_custom[frontend,tracing]' brings them"
            ) from error
        except ValueError as error:
            raise OptionError(f"OTEL_*: {error}") from error

    def of_request(self, name: str, headers: Mapping[str, str]) -> Any:
        """A span for a request, below the one that W3C Trace Context in ``headers`` names."""
        return self._tracer.start_span(name, self._propagator.extract(trace_context(headers)), kind=self._kinds.SERVER)

    def of_call(self, name: str, above: Any) -> Any:
        """A span for a call of another server, below ``above``."""
        return self._tracer.start_span(name, self._with_span(above), kind=self._kinds.CLIENT)

    def headers_of(self, span: Any) -> dict[str, str]:
        """W3C Trace Context for what hangs from ``span``."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers, self._with_span(span))
        return headers

    def end(self, span: Any, error: str = "") -> None:
        """``error``: of which kind it is, if it is one; never its text."""
        if error:
            span.set_attribute("error.type", error)
            span.set_status(self._error)
        span.end()

    def close(self) -> None:
        """Send what waits. Blocks for some seconds at most: OpenTelemetry tries for longer where there is no answer."""
        closing = threading.Thread(target=self._provider.shutdown, name="vllm_custom_spans", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


class TracedRequests:
    """Middleware: a span for each request that a model may answer, which also stands above what follows."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["path"].startswith(READY_PREFIX):
            await self._app(scope, receive, send)
            return
        entry, route = entry_of(scope), label_of(scope["path"]) or _OTHER
        span = self._tracer.of_request(f"{scope['method']} {route}", Headers(scope=scope))
        entry.trace_id = f"{span.get_span_context().trace_id:032x}"
        passed = [(name.encode(), value.encode()) for name, value in self._tracer.headers_of(span).items()]
        others = [header for header in scope["headers"] if header[0] not in _HEADERS]
        try:
            await self._app({**scope, "headers": others + passed, _SPAN: (self._tracer, span)}, receive, send)
        finally:
            span.set_attributes(
                {
                    "http.request.method": scope["method"],
                    "http.route": route,
                    "http.response.status_code": entry.status,
                    "vllm_custom.request_id": entry.request_id,
                    "vllm_custom.model": entry.model,
                }
            )
            self._tracer.end(span, str(entry.status) if not entry.status or entry.status >= _FIRST_DEFECT else "")


@contextlib.contextmanager
def call_of(scope: Scope, address: str) -> Iterator[Mapping[str, str]]:
    """A span for what a request asks of a Triton server; its W3C Trace Context, which is empty without a span."""
    if _SPAN not in scope:
        yield {}
        return
    tracer, above = scope[_SPAN]
    span = tracer.of_call("triton", above)
    span.set_attribute("server.address", address)
    error = ""
    try:
        yield tracer.headers_of(span)
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        tracer.end(span, error)


def _wanted(endpoint: str) -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or endpoint == _NONE:
        return False
    if endpoint:
        return True
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporters != _NONE and any(os.environ.get(name) for name in _ENDPOINTS)


def _provider(endpoint: str) -> Any:
    """The sampler, the batches and the resource are what OTEL_* say."""
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = OTELResourceDetector().detect().attributes
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "vllm_custom_frontend", **named}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
    return provider


def _exporter(endpoint: str) -> Any:
    protocol = next((value for name in _PROTOCOLS if (value := os.environ.get(name))), "grpc")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(endpoint=endpoint or None)
    if protocol != "grpc":
        raise ValueError(f"expected the protocol grpc or http/protobuf, got {protocol!r}")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    address = endpoint or next(value for name in _ENDPOINTS if (value := os.environ.get(name)))
    return GrpcExporter(endpoint=address, insecure=_is_insecure(address))


def _is_insecure(address: str) -> bool:
    """An address without a scheme is not encrypted, as with vLLM, unless OpenTelemetry's variables ask for it."""
    said = next((value for name in _INSECURE if (value := os.environ.get(name))), "true")
    return address.startswith("http://") or not (address.startswith("https://") or said.strip().lower() == "false")
