"""The direct server's spans and log lines: HTTP's and the model's are of one trace, and of one request."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from vllm_custom_direct import sink

from tests.support.direct_harness import Direct, answering
from tests.support.fake_engine import TEXT_ONLY, FakeEngine
from vllm_custom.observability import QueuedLog, Tracer
from vllm_custom_frontend import tracing
from vllm_custom_frontend.logs import JsonFormatter

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    for kind in (Tracer, tracing.Tracer):
        monkeypatch.setattr(kind, "configured", classmethod(lambda cls, endpoint: cls(provider)))
    yield memory
    provider.shutdown()


async def ask(**headers: str) -> Any:
    model = FakeEngine(TEXT_ONLY)
    model.application = answering("yes")
    server = Direct({"m": model}, api_keys=frozenset({"secret-key"}), key_names={"secret-key": "alice"})
    await server.models.look()
    try:
        return await server.post({"model": "m"}, authorization="Bearer secret-key", **headers)
    finally:
        await server.models.close(0.1)


async def test_one_trace(exporter: InMemorySpanExporter) -> None:
    reply = await ask(traceparent=f"00-{TRACE}-{PARENT}-01", x_request_id="mine")
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert set(found) == {"POST /v1/completions", "request", "admission"}
    http, request = found["POST /v1/completions"], found["request"]
    assert (f"{http.context.trace_id:032x}", f"{http.parent.span_id:016x}") == (TRACE, PARENT)
    assert request.parent.span_id == http.context.span_id
    assert found["admission"].parent.span_id == request.context.span_id
    assert (request.attributes["vllm_custom.request_id"], request.attributes["vllm_custom.key"]) == ("mine", "alice")
    assert reply.json["headers"]["traceparent"] == f"00-{TRACE}-{http.context.span_id:016x}-01"


async def test_a_line_for_each_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sink, "Logger", sink.Sink.Logger)
    with caplog.at_level(logging.INFO):
        assert (await ask(x_request_id="mine")).status == 200
    (record,) = [record for record in caplog.records if record.name == "vllm_custom"]
    line = json.loads(JsonFormatter().format(record))
    assert {name: line[name] for name in ("event", "request_id", "model", "key", "status")} == {
        "event": "request",
        "request_id": "mine",
        "model": "m",
        "key": "alice",
        "status": "OK",
    }
    assert "secret-key" not in caplog.text


def test_the_usual_log_has_no_line_for_a_request() -> None:
    log = QueuedLog(sink.Logger)
    assert not log.takes_requests
    log.close()
