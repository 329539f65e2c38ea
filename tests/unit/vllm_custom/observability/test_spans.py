"""Spans of requests, and who imports OpenTelemetry: nobody who has not been asked for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.fake_engine import TEXT_ONLY, FakeEngine
from tests.support.images import encode, halves
from tests.support.service_harness import Model, wait_until
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError
from vllm_custom.observability import Tracer, spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
VARIABLES = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Where spans go of models that are made meanwhile."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr(Tracer, "configured", classmethod(lambda cls, endpoint: cls(provider)))
    yield memory
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter, last: str = "request") -> dict[str, ReadableSpan]:
    """The spans of one request, when that has ended."""
    wait_until(lambda: any(span.name == last for span in exporter.get_finished_spans()))
    found = exporter.get_finished_spans()
    assert len({span.name for span in found}) == len(found)
    return {span.name: span for span in found}


def test_a_request_and_its_parts(exporter: InMemorySpanExporter) -> None:
    with Model(FakeEngine(facts=TEXT_ONLY)) as model:
        model.submit("a b c", {"traceparent": SAMPLED, "max_tokens": 5}, request_id="mine").wait()
        found = by_name(exporter)
    assert set(found) == {"request", "admission", "render", "engine"}
    request = found["request"]
    assert request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    for name in ("admission", "render", "engine"):
        assert found[name].parent.span_id == request.context.span_id, name
    assert found["admission"].start_time <= found["render"].start_time <= found["engine"].start_time
    wanted = {
        "vllm_custom.request_id": "mine",
        "vllm_custom.model": "model",
        "vllm_custom.version": "1",
        "vllm_custom.prompt_tokens": 3,
        "vllm_custom.output_tokens": 5,
        "vllm_custom.status": "OK",
    }
    assert dict(request.attributes or {}) == wanted


def test_media_are_parts_as_well(exporter: InMemorySpanExporter) -> None:
    with Model(FakeEngine()) as model:
        model.submit("see <image>", image=[encode(halves())]).wait()
        found = by_name(exporter)
    assert {"media.measure", "media.decode"} <= set(found)
    assert found["media.decode"].attributes == {"item": "image[0]"}


def test_a_stream_counts_each_token_once(exporter: InMemorySpanExporter) -> None:
    with Model(FakeEngine(facts=TEXT_ONLY)) as model:
        model.submit("a b", {"max_tokens": 7}, stream=True).wait()
        found = by_name(exporter)
    assert found["engine"].attributes == {"vllm_custom.prompt_tokens": 2, "vllm_custom.output_tokens": 7}


def test_what_is_not_sampled_leaves_nothing(exporter: InMemorySpanExporter) -> None:
    with Model(FakeEngine(facts=TEXT_ONLY)) as model:
        model.submit("a", {"traceparent": UNSAMPLED}).wait()
        model.submit("b").wait()
        found = by_name(exporter)
    assert f"{found['request'].context.trace_id:032x}" != TRACE


def test_an_error_is_told_by_its_kind_and_not_by_its_text(exporter: InMemorySpanExporter) -> None:
    def fail(number: int) -> None:
        raise ValueError("what the client sent")

    with Model(FakeEngine(facts=TEXT_ONLY, before_token=fail)) as model:
        assert model.submit("a").wait().error is not None
        found = by_name(exporter)
    assert found["request"].attributes["error.type"] == "INVALID_ARG"
    assert found["engine"].attributes["error.type"] == "ValueError"
    told = json.dumps([json.loads(span.to_json()) for span in found.values()])
    assert "what the client sent" not in told


@pytest.mark.parametrize(
    ("endpoint", "variables", "wanted"),
    [
        ("", {}, False),
        ("http://127.0.0.1:1", {}, True),
        ("none", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, False),
        ("http://127.0.0.1:1", {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_who_wants_spans(
    endpoint: str, variables: dict[str, str], wanted: bool, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**variables, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}.items():
        monkeypatch.setenv(name, value)
    tracer = Tracer.configured(endpoint)
    assert (tracer is not None) is wanted
    if tracer is not None:
        tracer.close()


def test_variables_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL: expected grpc or http/protobuf, got 'pigeon'"):
        Tracer.configured("http://127.0.0.1:1")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(endpoint: str) -> None:
        raise ImportError

    monkeypatch.setattr(spans, "_provider", missing)
    with pytest.raises(ConfigError, match="parameter OTLP_TRACES_ENDPOINT: expected the packages opentelemetry-sdk"):
        Tracer.configured("http://127.0.0.1:1")


@pytest.mark.parametrize("value", ["http://user:secret@host:4317", "http://a b", "http://ä"])
def test_an_endpoint_that_a_config_may_not_hold(value: str) -> None:
    parameters = {"OTLP_TRACES_ENDPOINT": {"string_value": value}}
    with pytest.raises(ConfigError, match="OTLP_TRACES_ENDPOINT: expected a URL without credentials"):
        Settings.from_model_config({"name": "model", "parameters": parameters})


def test_nobody_imports_opentelemetry_who_is_not_asked_to() -> None:
    program = (
        "import sys; from vllm_custom.serving import common; from vllm_custom.observability import Tracer;"
        "assert Tracer.configured('') is None; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0
