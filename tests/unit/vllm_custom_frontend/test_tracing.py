"""The frontend's spans: taken from the client, passed to Triton, and nothing of it where nobody asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.triton_servers import FakeTriton, Model, frontend, serving
from vllm_custom_frontend import tracing
from vllm_custom_frontend.options import OptionError, parse
from vllm_custom_frontend.triton import _trace_context

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = tracing.Tracer(provider)
    monkeypatch.setattr(tracing.Tracer, "configured", classmethod(lambda cls, endpoint: tracer))
    yield memory
    provider.shutdown()


def sent_headers(triton: FakeTriton) -> dict[str, Any]:
    """Those of the envelope that the model has got."""
    headers: dict[str, Any] = triton.models["m"].asked[-1]["headers"]
    return headers


async def test_a_request_and_its_call_of_triton(exporter: InMemorySpanExporter) -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        answer = await client.post({"model": "m"}, traceparent=SAMPLED, tracestate="a=b", x_request_id="mine")
        assert answer.status == 200
        await client.get("/health")
    call, request = exporter.get_finished_spans()
    assert (request.name, call.name) == ("POST /v1/chat/completions", "triton")
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert call.parent.span_id == request.context.span_id
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "vllm_custom.request_id": "mine",
        "vllm_custom.model": "m",
    }
    headers = sent_headers(triton)
    assert (headers["traceparent"], headers["tracestate"]) == (f"00-{TRACE}-{call.context.span_id:016x}-01", "a=b")


async def test_what_is_not_sampled_is_passed_on_as_such(exporter: InMemorySpanExporter) -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        await client.post({"model": "m"}, traceparent=UNSAMPLED)
    assert exporter.get_finished_spans() == ()
    assert sent_headers(triton)["traceparent"].startswith(f"00-{TRACE}-")
    assert sent_headers(triton)["traceparent"].endswith("-00")


async def test_a_malformed_context_begins_a_trace_of_its_own(exporter: InMemorySpanExporter) -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        assert (await client.post({"model": "m"}, traceparent="00-1-2-03")).status == 200
    _, request = exporter.get_finished_spans()
    assert request.parent is None


async def test_an_error_has_its_status(exporter: InMemorySpanExporter) -> None:
    async with frontend("127.0.0.1:1") as client:
        assert (await client.post({"model": "m"})).status == 503
    (request,) = exporter.get_finished_spans()
    assert request.attributes["error.type"] == "503"


async def test_who_has_no_key_writes_nothing_into_a_trace(exporter: InMemorySpanExporter) -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address, api_keys=frozenset({"secret-key"})) as client:
        assert (await client.post({"model": "m"}, traceparent=SAMPLED)).status == 401
        assert exporter.get_finished_spans() == ()
        answer = await client.post({"model": "m"}, traceparent=SAMPLED, authorization="Bearer secret-key")
    assert answer.status == 200
    assert [span.name for span in exporter.get_finished_spans()] == ["triton", "POST /v1/chat/completions"]


async def test_without_spans_the_clients_context_goes_on_as_it_is() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address) as client:
        await client.post({"model": "m"}, traceparent=SAMPLED)
    assert sent_headers(triton)["traceparent"] == SAMPLED


def test_the_context_is_metadata_of_the_call_where_it_may_be() -> None:
    assert _trace_context({"traceparent": SAMPLED, "tracestate": "a=b"}) == [
        ("traceparent", SAMPLED),
        ("tracestate", "a=b"),
    ]
    assert _trace_context({"traceparent": "\u00e4", "tracestate": "a\x00b", "x": "y"}) is None
    assert _trace_context({"traceparent": SAMPLED, "tracestate": "a" * 513}) == [("traceparent", SAMPLED)]
    assert _trace_context(None) is None


def test_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)
    assert tracing.Tracer.configured(parse([]).otlp_traces_endpoint) is None
    tracer = tracing.Tracer.configured(parse(["--otlp-traces-endpoint=http://127.0.0.1:1"]).otlp_traces_endpoint)
    assert tracer is not None
    tracer.close()
    with pytest.raises(SystemExit):
        parse(["--otlp-traces-endpoint=http://user:hidden@host"])
    assert "expected a URL without credentials" in capsys.readouterr().err
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon")
    with pytest.raises(OptionError, match="got 'pigeon'"):
        tracing.Tracer.configured("http://127.0.0.1:1")


def test_nobody_imports_opentelemetry_who_is_not_asked_to() -> None:
    program = (
        "import sys; from vllm_custom_frontend import app, options; app.make_app(options.parse([]));"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0
