"""Three instances of a model: three processes on one engine, which is one model to its clients."""

from __future__ import annotations

import base64
import functools
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.front_processes import engine_cores, family, folders, hosts, is_alive, stubs
from tests.support.servers import SHAPES_VL, Loads, Repository, is_idle, wait_until
from tests.support.shapes import picture
from tools.installer.healing import Healer
from tools.installer.server import TritonServer
from vllm_custom.engine.vllm.host import PROGRAM

pytestmark = pytest.mark.timeout(600)
KILLS = pytest.mark.skipif(
    not os.environ.get("VLLM_CUSTOM_TEST_FRONTS"),
    reason="not run: Triton 24.10 may abort when a model's process is killed; set VLLM_CUSTOM_TEST_FRONTS=1",
)

MODEL = "fronts"
FRONTS = 3
PLACES = 8
CONFIG = f"""
backend: "vllm_custom"
instance_group [ {{ count: {FRONTS}, kind: KIND_MODEL }} ]
parameters {{ key: "REPORT_CUSTOM_METRICS" value: {{ string_value: "true" }} }}
parameters {{ key: "MAX_INFLIGHT_REQUESTS" value: {{ string_value: "{PLACES}" }} }}
parameters {{ key: "ENGINE_GRACE_PERIOD" value: {{ string_value: "2" }} }}
"""
DESCRIBE = "Describe the image."
SUM: dict[str, Any] = {"text_input": "2+3=", "temperature": 0}
LONG: dict[str, Any] = SUM | {"ignore_eos": True, "max_tokens": 8000}
LABELS = f'{{model="{MODEL}",version="1"}}'
GENERATED, PROMPTS = f"vllm:generation_tokens_total{LABELS}", f"vllm:prompt_tokens_total{LABELS}"
LATENCIES = f"vllm:e2e_request_latency_seconds_count{LABELS}"
FIRST_TOKENS = f"vllm:time_to_first_token_seconds_count{LABELS}"
GENERATED_EACH = f"vllm:request_generation_tokens_sum{LABELS}"
TRITONS = f'nv_inference_request_success{{model="{MODEL}",version="1"}}'
SUCCEEDED = f"vllm_custom:requests_success_total{LABELS}"
ATTACHED, LOST, REPLACED = (f"vllm_custom:fronts{what}{LABELS}" for what in ("", "_lost_total", "_replaced_total"))
# Histograms are reported at this interval, and a little more.
HISTOGRAMS_SECONDS = 4.0
ENDED = re.compile(r"ended (\d+) requests of the front")


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads) -> None:
    folder = repository.folder / MODEL
    folder.mkdir()
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1").symlink_to(SHAPES_VL / "1")
    load(MODEL)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.any_base
def test_one_engine_serves_all_instances(triton: TritonServer) -> None:
    assert len(stubs(triton, MODEL)) == FRONTS
    assert len(engine_cores(triton, MODEL)) == 1


@pytest.mark.any_base
def test_every_front_gives_the_answers_of_the_model(client: Client) -> None:
    """Texts, images and adapters, each asked more often than there are fronts."""
    drawn = picture(23_100, (224, 224), count=2)
    image = [b64(drawn.encoded())]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"text_input": "2+3=", "max_tokens": 5}, "2+3=5"),
        ({"text_input": DESCRIBE, "image": image}, drawn.answer()),
        ({"text_input": DESCRIBE, "image": image, "lora_name": "zh"}, drawn.answer("zh")),
        ({"text_input": DESCRIBE, "image": image, "lora_name": "caps"}, drawn.answer().upper()),
    ]
    asked = cases * 2 * FRONTS
    with ThreadPoolExecutor(PLACES) as pool:
        answers = list(pool.map(lambda case: client.generate(MODEL, temperature=0, **case[0]), asked))
    assert [answer.body.get("text_output") for answer in answers] == [expected for _, expected in asked]


@pytest.mark.any_base
def test_a_seed_gives_the_same_text_whichever_front_samples(client: Client) -> None:
    body = {"text_input": "Hello", "temperature": 1.5, "seed": 7, "max_tokens": 20, "ignore_eos": True}
    assert len({client.generate(MODEL, **body).text for _ in range(3 * FRONTS)}) == 1


def test_metrics_count_each_request_once_whichever_front_serves_it(client: Client) -> None:
    wait_until(functools.partial(is_idle, client, GENERATED))
    time.sleep(HISTOGRAMS_SECONDS)
    before = client.metrics()
    requests, tokens = 12 * FRONTS, 7
    body = SUM | {"max_tokens": tokens, "ignore_eos": True, "return_num_input_tokens": True}
    with ThreadPoolExecutor(PLACES) as pool:
        answers = list(pool.map(lambda _: client.generate(MODEL, **body), range(requests)))
    prompt = sum(int(answer.body["num_input_tokens"]) for answer in answers)
    expected = {
        GENERATED: requests * tokens,
        GENERATED_EACH: requests * tokens,
        PROMPTS: prompt,
        LATENCIES: requests,
        FIRST_TOKENS: requests,
    }
    wait_until(functools.partial(is_idle, client, GENERATED))
    time.sleep(HISTOGRAMS_SECONDS)

    def grown(*names: str) -> dict[str, float]:
        after = client.metrics()
        return {name: after[name] - before.get(name, 0) for name in names}

    assert grown(*expected) == expected
    # A frontend of another module may ask for the model's list now and then, which Triton counts.
    wait_until(lambda: grown(SUCCEEDED)[SUCCEEDED] == requests)
    assert grown(TRITONS)[TRITONS] >= requests
    assert client.metrics()[ATTACHED] == FRONTS


def test_gauges_of_the_engine_are_the_models(client: Client) -> None:
    """Whichever front the scheduler tells, and whichever was told before it."""
    running = [f"{name}{LABELS}" for name in ("vllm:num_requests_running", "vllm_custom:sequences_in_flight")]

    def all_are(count: int) -> bool:
        found = client.metrics()
        return [found[name] for name in running] == [count, count]

    wait_until(lambda: all_are(0))
    for _ in range(2):
        with ExitStack() as stack, ThreadPoolExecutor(PLACES) as pool:
            opened = pool.map(lambda _: stack.enter_context(client.open_stream(MODEL, **LONG)), range(PLACES))
            assert [event for event in map(next, opened) if "error" in event] == []
            wait_until(lambda: all_are(PLACES))
        wait_until(lambda: all_are(0))


def test_the_limit_on_requests_is_the_models(client: Client) -> None:
    before = client.metrics()[SUCCEEDED]
    with ExitStack() as stack, ThreadPoolExecutor(PLACES) as pool:
        # At once: one after the other, on a machine that is very busy, the first may end before the last has begun.
        opened = pool.map(lambda _: stack.enter_context(client.open_stream(MODEL, **LONG)), range(PLACES))
        begun = list(pool.map(next, opened))
        assert [event for event in begun if "error" in event] == []
        for _ in range(2 * FRONTS):
            refused = client.generate(MODEL, **SUM)
            ended = client.metrics()[SUCCEEDED] - before
            assert f"MAX_INFLIGHT_REQUESTS is {PLACES}" in refused.body.get("error", ""), f"{ended} streams have ended"
    wait_until(functools.partial(is_idle, client, GENERATED))
    assert client.generate(MODEL, **SUM).text == "2+3=5"


@KILLS
def test_a_killed_front_costs_its_own_requests_only_and_is_replaced(
    client: Client, triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Triton leaves the requests of a killed process without an answer.
    monkeypatch.setattr("tests.support.client.TIMEOUT_SECONDS", 120)
    engine, running = engine_cores(triton, MODEL), stubs(triton, MODEL)
    generated = client.metrics()[GENERATED]
    said: list[str] = []
    healer = Healer(triton.pid, triton.http_url, said.append)
    healer.look()
    tokens = 400
    # No streams: tritonserver itself may abort where a process is killed while it hands over a response.
    body = LONG | {"max_tokens": tokens, "return_num_output_tokens": True}
    with ThreadPoolExecutor(2 * FRONTS) as pool:
        asked = [pool.submit(tokens_of, client, body) for _ in range(2 * FRONTS)]
        wait_until(lambda: client.metrics()[GENERATED] - generated > 10 * len(asked))
        running[0].kill()
        look_until_healed(healer, said)
        wait_until(lambda: ENDED.search(triton.log_text()) is not None, 5)
        answers = [request.result() for request in asked]
    ended = ENDED.search(triton.log_text())
    assert ended is not None
    assert answers.count(None) == int(ended[1])
    assert set(answers) <= {None, tokens}
    assert "have been replaced, in" in said[-1]
    assert [client.generate(MODEL, **SUM).body.get("text_output") for _ in range(4 * FRONTS)] == ["2+3=5"] * 4 * FRONTS
    assert engine_cores(triton, MODEL) == engine
    wait_until(lambda: len(stubs(triton, MODEL)) == FRONTS)  # Triton keeps the old ones for what the killed one had
    assert not set(running) & set(stubs(triton, MODEL))
    wait_until(lambda: client.metrics()[ATTACHED] == FRONTS)
    metrics = client.metrics()
    assert (metrics[LOST], metrics[REPLACED]) == (1, 1)


def look_until_healed(healer: Healer, said: list[str]) -> None:
    deadline = time.monotonic() + 240
    while not any("have been replaced" in line for line in said) and time.monotonic() < deadline:
        healer.look()
        time.sleep(0.1)


def tokens_of(client: Client, body: dict[str, Any]) -> int | None:
    """None where there is no answer."""
    try:
        return int(client.generate(MODEL, **body).body["num_output_tokens"])
    except OSError:
        return None


def test_nothing_is_left_after_unload(client: Client, triton: TritonServer) -> None:
    below = [process for stub in stubs(triton, MODEL) for process in family(stub)]
    below += [process for host in hosts(triton, MODEL, PROGRAM) for process in (*family(host), *host.parents()[:1])]
    assert folders(MODEL)
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))
    wait_until(lambda: not any(is_alive(process) for process in below))
    wait_until(lambda: not folders(MODEL))
