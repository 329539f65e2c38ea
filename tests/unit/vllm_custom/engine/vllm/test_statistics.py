"""What vLLM registers with Prometheus is found, whatever it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vllm_custom.engine.statistics import Sample
from vllm_custom.engine.vllm.statistics import VllmStatistics, _Heard

LABELS = ("model_name", "engine")


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("vllm:new_things", "New.", (*LABELS, "reason"), registry=made).labels("m", "0", "full").inc(3)
    Gauge("vllm:num_requests_running", "Running.", LABELS, registry=made).labels("m", "0").set(2)
    Histogram("vllm:step_seconds", "Step.", LABELS, buckets=(1.0, 2.5), registry=made).labels("m", "0").observe(2)
    Counter("http_requests", "Of another program.", registry=made).inc()
    return made


def statistics(registry: CollectorRegistry, *, several: bool = False) -> VllmStatistics:
    return VllmStatistics(_Heard(), registry, several=several)


def test_each_kind_has_its_samples_without_the_name_of_the_model(registry: CollectorRegistry) -> None:
    found = statistics(registry)
    assert list(found.counters()) == [Sample("vllm:new_things_total", "COUNTER", "New.", (("reason", "full"),), 3)]
    assert list(found.gauges()) == [Sample("vllm:num_requests_running", "GAUGE", "Running.", (), 2)]
    assert [(sample.family, sample.labels, sample.value) for sample in found.histograms()] == [
        ("vllm:step_seconds_bucket", (("le", "1.0"),), 0),
        ("vllm:step_seconds_bucket", (("le", "2.5"),), 1),
        ("vllm:step_seconds_bucket", (("le", "+Inf"),), 1),
        ("vllm:step_seconds_count", (), 1),
        ("vllm:step_seconds_sum", (), 2),
    ]


def test_engines_are_told_apart_where_there_are_several(registry: CollectorRegistry) -> None:
    assert [sample.labels for sample in statistics(registry, several=True).gauges()] == [(("engine", "0"),)]


def test_a_series_that_comes_later_is_found(registry: CollectorRegistry) -> None:
    gauge = Gauge("vllm:lora_requests_info", "Adapters.", ("running_lora_adapters",), registry=registry)
    found = statistics(registry)
    before = len(list(found.gauges()))
    gauge.labels("zh").set(1)
    assert len(list(found.gauges())) == before + 1


def test_a_family_that_comes_later_is_found(registry: CollectorRegistry) -> None:
    """vLLM's OpenAI application registers families of its own when it is built."""
    found = statistics(registry)
    Counter("vllm:tool_calls", "Calls.", registry=registry).inc(2)
    list(found.histograms())
    assert "vllm:tool_calls_total" in {sample.family for sample in found.counters()}


def test_a_family_that_vllm_has_renamed_keeps_its_old_name_too(registry: CollectorRegistry) -> None:
    new = Histogram("vllm:inter_token_latency_seconds", "Gap.", LABELS, buckets=(1.0,), registry=registry)
    new.labels("m", "0").observe(3)
    found = {sample.family: sample.value for sample in statistics(registry).histograms()}
    old = {name: value for name, value in found.items() if "time_per_output_token" in name}
    assert old == {f"vllm:time_per_output_token_seconds_{end}": value for end, value in
                   (("bucket", 1), ("count", 1), ("sum", 3))}  # fmt: skip
    Histogram("vllm:time_per_output_token_seconds", "Gap.", LABELS, buckets=(1.0,), registry=registry)
    names = [sample.family for sample in statistics(registry).histograms()]
    assert "vllm:time_per_output_token_seconds_sum" not in names, "vLLM's own, which has no series"


def test_an_engine_that_counts_nothing_has_none() -> None:
    assert VllmStatistics.of(SimpleNamespace()) is None
    assert VllmStatistics.of(SimpleNamespace(logger_manager=None)) is None


def test_series_of_adapters_do_not_become_ever_more(registry: CollectorRegistry) -> None:
    """vLLM has one for each order in which adapters were used together, and looks at none of them again."""
    gauge = Gauge("vllm:lora_requests_info", "Adapters.", ("running_lora_adapters",), registry=registry)
    found = VllmStatistics(_Heard(), registry, several=False, growing=[gauge])
    seen = set()
    for number in range(1000):
        gauge.labels(str(number)).set(number)
        samples = list(found.gauges())
        assert len(samples) < 100
        seen.update(sample.labels for sample in samples)
    assert (("running_lora_adapters", "999"),) in seen
    assert len(seen) == 1001, "all were told of, and those of other gauges are still there"


def test_vllms_growing_gauges_are_known() -> None:
    gauge = object()
    manager = SimpleNamespace(stat_loggers=[SimpleNamespace(gauge_lora_info=gauge)], engine_indexes=[0])
    found = VllmStatistics.of(SimpleNamespace(logger_manager=manager))
    assert found is not None
    assert list(found._growing) == [gauge]


def test_it_is_known_when_the_scheduler_was_told_of() -> None:
    manager = SimpleNamespace(stat_loggers=[], engine_indexes=[0])
    found = VllmStatistics.of(SimpleNamespace(logger_manager=manager))
    assert found is not None
    assert found.heard_ns == 0
    (logger,) = manager.stat_loggers
    logger.record(None, object(), engine_idx=0)
    logger.log()
    assert found.heard_ns == 0
    logger.record(object(), None, mm_cache_stats=None, engine_idx=0)
    assert found.heard_ns > 0
