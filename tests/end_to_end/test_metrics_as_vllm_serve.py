"""The same requests leave the same figures on Triton's metrics endpoint as on that of `vllm serve`.

Each server has just started, and gets the requests one at a time and in the same order.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.support import one_process, superset
from tests.support.client import TIMEOUT_SECONDS, Client
from tests.support.frontend_process import Frontend
from tests.support.openai_cases import COMPLETIONS, MODEL
from tests.support.servers import ADAPTERS, SHARED_MODEL, Loads, Repository, parameter, serving, wait_until
from tests.support.vllm_serve import vllm_serve
from tests.support.vllm_serve_cases import CASES, ask, triton_body
from tools.installer.server import TritonServer

# Two engines start within the first test's time.
pytestmark = pytest.mark.timeout(900)

ASKED = ("greedy", "greedy, long", "n", "stop", "a chat", "a picture", "two pictures", "a picture and an adapter")
REQUESTS = [case for case in CASES if case.name in ASKED]
# Its prompt fills several blocks of the cache, which have 128 tokens on a CPU.
LONG: dict[str, Any] = {"text_input": "a red circle and a blue square and " * 40, "max_tokens": 20, "ignore_eos": True}
SAMPLE = re.compile(r"(?P<name>vllm:\w+?)(?P<end>_bucket|_sum|_count|_total)?(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Labels that this backend adds, and those that it leaves out: the name of the model, and which engine where it is one.
CHANGED = {"model", "version", "model_name", "engine"}
# What the official backend calls a family that vLLM has renamed.
ALIAS = "vllm:time_per_output_token_seconds"
# Its value is the time at which it was so.
ADAPTERS_NOW = "vllm:lora_requests_info"
# Its observations are the engine's steps: the sequences of one request may begin in one step or in two.
STEPS = "vllm:iteration_tokens_total"

Key: TypeAlias = tuple[str, str, frozenset[tuple[str, str]]]


def figures(text: str) -> dict[Key, float]:
    """vLLM's samples by family, end of the name, and labels."""
    found: dict[Key, float] = {}
    for line in text.splitlines():
        match = SAMPLE.fullmatch(line)
        if match and not match["name"].endswith("_created"):
            labels = frozenset(pair for pair in LABEL.findall(match["labels"] or "") if pair[0] not in CHANGED)
            found[match["name"], match["end"] or "", labels] = float(match["value"])
    return found


def is_chance(key: Key) -> bool:
    """Whether the value is of the clock, or of the moment, so that two runs need not have it in common."""
    name, end, _ = key
    timed = name == ADAPTERS_NOW or (name.endswith("_seconds") and end in ("_bucket", "_sum"))
    return timed or (name == STEPS and end in ("_bucket", "_count"))


@pytest.fixture(scope="module")
def engine_args(repository: Repository) -> dict[str, Any]:
    return repository.shapes_args(enable_lora=True, max_loras=8, max_lora_rank=16, seed=0)


@pytest.fixture(scope="module")
def expected(engine_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[Key, float]:
    """Of vLLM's own server."""
    log = tmp_path_factory.mktemp("vllm_serve") / "log"
    with vllm_serve(log, *superset.serve_arguments(engine_args)) as server:
        for case in REQUESTS:
            ask(server, case)
        return figures(server.get("/metrics").body.decode())


@pytest.fixture(scope="module")
def triton(
    engine_args: dict[str, Any], expected: dict[Key, float], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A server of this module's own, with the model just loaded; vLLM's own has ended."""
    own = Repository(tmp_path_factory.mktemp("counted"))
    config = SHARED_MODEL
    parsers = {"TOOL_CALL_PARSER": "hermes", "ENABLE_AUTO_TOOL_CHOICE": "true", "REASONING_PARSER": "granite"}
    for name, value in {"REPORT_CUSTOM_METRICS": "true", **parsers}.items():
        config += parameter(name, value)
    own.add(MODEL, config, engine_args, multi_lora__json=json.dumps(ADAPTERS))
    with serving(own, tmp_path_factory.mktemp("triton"), env=one_process.ENVIRONMENT) as server:
        Loads(server, Client(server.http_url, server.metrics_url))(MODEL)
        yield server


@pytest.fixture(scope="module")
def client(triton: TritonServer) -> Client:
    return Client(triton.http_url, triton.metrics_url)


@pytest.fixture(scope="module")
def got(client: Client, expected: dict[Key, float]) -> dict[Key, float]:
    """Of Triton, once it has been told all."""
    for case in REQUESTS:
        answer = client.generate(MODEL, **triton_body(case))
        assert answer.status == 200, (case.name, answer.body)
    latencies = f'vllm:e2e_request_latency_seconds_count{{model="{MODEL}",version="1"}}'
    total = expected["vllm:e2e_request_latency_seconds", "_count", frozenset()]
    wait_until(lambda: client.metrics().get(latencies, 0) >= total)
    time.sleep(1)  # a report of some hundred series may be under way
    return figures(client.metrics_text())


def test_families_and_series_are_the_same(expected: dict[Key, float], got: dict[Key, float]) -> None:
    assert len({name for name, _, _ in expected}) > 35
    assert expected.keys() - got.keys() == set()
    assert {name for name, _, _ in got.keys() - expected.keys()} == {ALIAS}


def test_counts_and_buckets_are_the_same(expected: dict[Key, float], got: dict[Key, float]) -> None:
    counted = {key: value for key, value in expected.items() if not is_chance(key)}
    assert len(counted) > 140
    assert {key: got[key] for key in counted} == counted


def test_a_renamed_family_has_its_old_name_beside_the_new(got: dict[Key, float]) -> None:
    old = {key[1:]: value for key, value in got.items() if key[0] == ALIAS}
    new = {key[1:]: value for key, value in got.items() if key[0] == "vllm:inter_token_latency_seconds"}
    assert old == new
    assert len(old) > 10


def ordered(figures: dict[str, float]) -> bool:
    """Whether these are times that one request may have taken."""
    first, last = figures["first_token_seconds"], figures["last_token_seconds"]
    return figures["queue_seconds"] >= 0 and 0 < figures["prefill_seconds"] <= first < last < TIMEOUT_SECONDS


def test_a_request_may_ask_what_it_took(client: Client, got: dict[Key, float]) -> None:
    answer = client.generate(MODEL, return_request_metrics=True, **LONG)
    assert ordered(json.loads(answer.body["request_metrics"]))
    again = client.generate(MODEL, return_request_metrics=True, **LONG)
    assert json.loads(again.body["request_metrics"])["cached_tokens"] > 0
    several = client.generate(MODEL, return_request_metrics=True, n=2, **LONG)
    assert set(json.loads(several.body["request_metrics"])) == {"cached_tokens"}


def test_the_last_response_of_a_stream_says_what_it_took(client: Client, got: dict[Key, float]) -> None:
    *earlier, last = [event["request_metrics"] for event in client.stream(MODEL, return_request_metrics=True, **LONG)]
    assert {json.loads(text) for text in earlier} == {None}
    assert ordered(json.loads(last))


def test_headers_of_openais_answers_say_the_same(triton: TritonServer, got: dict[Key, float], tmp_path: Path) -> None:
    body = {"model": MODEL, "prompt": LONG["text_input"], "max_tokens": 20, "ignore_eos": True}
    with Frontend(tmp_path / "log", f"--triton={triton.grpc_url}") as frontend:
        headers = frontend.post(COMPLETIONS, body).headers
        times = dict(re.findall(r"(\w+);dur=([\d.]+)", headers["server-timing"]))
        assert ordered({f"{name}_seconds": float(value) / 1000 for name, value in times.items()})
        assert int(headers["x-cached-tokens"]) > 0
        assert "server-timing" not in frontend.post(COMPLETIONS, body | {"stream": True}).headers
