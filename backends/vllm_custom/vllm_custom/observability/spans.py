"""OpenTelemetry's spans. Its packages are imported only where spans are asked for."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from vllm_custom.kernel.errors import ConfigError

NONE = "none"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_NANOSECONDS = 1_000_000_000
# A collector that is not there does not hold up the end of a model.
_CLOSE_SECONDS = 5.0
_INSECURE = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")

Attributes = Mapping[str, Any]


class Span:
    """One span that has begun. For any thread."""

    def __init__(self, tracer: Tracer, made: Any) -> None:
        self._tracer = tracer
        self._made = made

    @property
    def headers(self) -> dict[str, str]:
        """W3C Trace Context for what becomes a child of this span elsewhere."""
        return self._tracer.headers_of(self._made)

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._made.get_span_context().trace_id:032x}"

    def child(self, name: str, attributes: Attributes | None = None) -> Span:
        """A span below this one, which begins now."""
        return self._tracer.begin(name, self._made, attributes=attributes)

    def set(self, attributes: Attributes) -> None:
        """Add attributes; those that are None, or empty, are left out."""
        self._made.set_attributes({name: value for name, value in attributes.items() if value not in (None, "")})

    def end(self, error: str = "") -> None:
        """End it; ``error`` is the kind of an error, and no message: that may hold what a client sent."""
        if error:
            from opentelemetry.trace import StatusCode

            self._made.set_attribute("error.type", error)
            self._made.set_status(StatusCode.ERROR)
        self._made.end()


class Tracer:
    """Begins spans, and sends those that have ended to a collector from a thread of its own."""

    def __init__(self, provider: Any) -> None:
        """``provider``: OpenTelemetry's TracerProvider."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("vllm_custom")
        self._with_span = trace.set_span_in_context
        self._propagator = TraceContextTextMapPropagator()
        # A line for each header of a client's that it cannot read.
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)

    @classmethod
    def configured(cls, endpoint: str) -> Tracer | None:
        """One that sends spans to a collector; None where they are not asked for.

        Args:
            endpoint: of the collector; empty for what OpenTelemetry's environment variables say, "none" for none.

        Raises:
            ConfigError: OpenTelemetry's packages are missing, or the variables are wrong.
        """
        if not _wanted(endpoint):
            return None
        try:
            return cls(_provider(endpoint))
        except ImportError as error:
            raise ConfigError(
                "config.pbtxt: parameter OTLP_TRACES_ENDPOINT: expected the packages opentelemetry-sdk and "
                "opentelemetry-exporter-otlp, which cannot be imported"
            ) from error
        except ValueError as error:
            raise ConfigError(f"OTEL_*: expected variables that OpenTelemetry understands ({error})") from error

    def begin(
        self,
        name: str,
        parent: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds_ago: float = 0.0,
        attributes: Attributes | None = None,
    ) -> Span:
        """A span below ``parent`` (OpenTelemetry's), or below the one that W3C Trace Context in ``headers`` names."""
        context = self._with_span(parent) if parent is not None else self._propagator.extract(headers or {})
        start = time.time_ns() - int(seconds_ago * _NANOSECONDS) if seconds_ago else None
        span = Span(self, self._tracer.start_span(name, context, start_time=start))
        if attributes:
            span.set(attributes)
        return span

    def headers_of(self, made: Any) -> dict[str, str]:
        """W3C Trace Context of one of OpenTelemetry's spans."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers, self._with_span(made))
        return headers

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, name="vllm_custom_spans", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


def _wanted(endpoint: str) -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or endpoint == NONE:
        return False
    if endpoint:
        return True
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporters != NONE and any(os.environ.get(name) for name in _ENDPOINTS)


def _provider(endpoint: str) -> Any:
    """The sampler, the batches and the resource are what OTEL_* say; the protocol is chosen as vLLM chooses it."""
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = OTELResourceDetector().detect().attributes
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "vllm_custom", **named}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
    return provider


def _exporter(endpoint: str) -> Any:
    protocol = next((value for name in _PROTOCOLS if (value := os.environ.get(name))), "grpc")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(endpoint=endpoint or None)
    if protocol != "grpc":
        raise ConfigError(f"{_PROTOCOLS[-1]}: expected grpc or http/protobuf, got {protocol!r}")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    address = endpoint or next(value for name in _ENDPOINTS if (value := os.environ.get(name)))
    return GrpcExporter(endpoint=address, insecure=_is_insecure(address))


def _is_insecure(address: str) -> bool:
    """An address without a scheme is not encrypted, as with vLLM, unless OpenTelemetry's variables ask for it."""
    said = next((value for name in _INSECURE if (value := os.environ.get(name))), "true")
    return address.startswith("http://") or not (address.startswith("https://") or said.strip().lower() == "false")
