"""Three instances of a model: three processes on one engine, which is one model to its clients."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.client import Client
from tests.support.servers import SHAPES_VL, Repository, is_idle, wait_until
from tests.support.shapes import picture
from tools.installer.server import TritonServer
from vllm_custom.engine.host.folders import runtime_folder

# One of them was seen to fail beside the engine of other tests: a request was admitted beyond the limit, cause unknown.
RUN = "VLLM_CUSTOM_TEST_FRONTS"
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get(RUN), reason=f"not run: not yet stable next to other engines; set {RUN}=1"),
]

MODEL = "fronts"
FRONTS = 3
PLACES = 8
CONFIG = f"""
backend: "vllm_custom"
instance_group [ {{ count: {FRONTS}, kind: KIND_MODEL }} ]
parameters {{ key: "REPORT_CUSTOM_METRICS" value: {{ string_value: "true" }} }}
parameters {{ key: "MAX_INFLIGHT_REQUESTS" value: {{ string_value: "{PLACES}" }} }}
parameters {{ key: "SHARE_ENGINE" value: {{ string_value: "auto" }} }}
parameters {{ key: "ENGINE_GRACE_PERIOD" value: {{ string_value: "10" }} }}
"""
DESCRIBE = "Describe the image."
LONG: dict[str, Any] = {"text_input": "2+3=", "temperature": 0, "ignore_eos": True, "max_tokens": 6000}
GENERATED = f'vllm:generation_tokens_total{{model="{MODEL}",version="1"}}'
ENDED = re.compile(r"ended (\d+) requests of the front")
SUCCEEDED = f'vllm_custom:requests_success_total{{model="{MODEL}",version="1"}}'


@pytest.fixture(scope="module", autouse=True)
def model(client: Client, repository: Repository) -> Iterator[None]:
    folder = repository.folder / MODEL
    folder.mkdir()
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1").symlink_to(SHAPES_VL / "1")
    answer = client.load(MODEL)
    assert answer.status == 200, answer.body
    yield
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def stubs(triton: TritonServer) -> list[psutil.Process]:
    children = psutil.Process(triton.pid).children()
    return [child for child in children if is_alive(child) and f" {MODEL}_0_" in " ".join(child.cmdline())]


def engines() -> list[psutil.Process]:
    """The engine cores of this machine that are children of a host of ours."""
    found = []
    for process in psutil.process_iter(["name"]):
        parent = process.parent() if "EngineCor" in (process.info["name"] or "") else None
        if parent is not None and "vllm_custom.engine.vllm.host" in " ".join(parent.cmdline()):
            found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_one_engine_serves_all_instances(triton: TritonServer) -> None:
    assert len(stubs(triton)) == FRONTS
    assert len(engines()) == 1


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
    before = client.metrics().get(SUCCEEDED, 0)
    asked = cases * 2 * FRONTS
    with ThreadPoolExecutor(PLACES) as pool:
        answers = list(pool.map(lambda case: client.generate(MODEL, temperature=0, **case[0]), asked))
    assert [answer.body.get("text_output") for answer in answers] == [expected for _, expected in asked]
    wait_until(lambda: client.metrics()[SUCCEEDED] - before == len(asked))


def test_a_seed_gives_the_same_text_whichever_front_samples(client: Client) -> None:
    body = {"text_input": "Hello", "temperature": 1.5, "seed": 7, "max_tokens": 20, "ignore_eos": True}
    assert len({client.generate(MODEL, **body).text for _ in range(3 * FRONTS)}) == 1


def test_the_limit_on_requests_is_the_models(client: Client) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(client.open_stream(MODEL, **LONG)) for _ in range(PLACES)]
        begun = [next(events) for events in streams]
        assert [event for event in begun if "error" in event] == []
        for _ in range(2 * FRONTS):
            refused = client.generate(MODEL, text_input="2+3=", temperature=0)
            assert f"MAX_INFLIGHT_REQUESTS is {PLACES}" in refused.error
    wait_until(functools.partial(is_idle, client, GENERATED))
    assert client.generate(MODEL, text_input="2+3=", temperature=0).text == "2+3=5"


def test_nothing_is_left_after_unload(client: Client, triton: TritonServer) -> None:
    below = [process for stub in stubs(triton) for process in (stub, *stub.children(recursive=True))]
    engine = engines()[0]
    host = engine.parent()
    assert host is not None
    below += [engine, host, *host.children(recursive=True), *host.parents()[:1]]
    assert [path for path in runtime_folder().iterdir() if path.name.startswith(MODEL)]
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))
    wait_until(lambda: not any(is_alive(process) for process in below))
    assert not [path for path in Path(runtime_folder()).iterdir() if path.name.startswith(MODEL)]
    answer = client.load(MODEL)
    assert answer.status == 200, json.dumps(answer.body)
    assert client.generate(MODEL, text_input="2+3=", temperature=0).text == "2+3=5"


def test_a_killed_front_costs_its_own_requests_only(
    client: Client, triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Triton leaves the requests of a killed process without an answer.
    monkeypatch.setattr("tests.support.client.TIMEOUT_SECONDS", 30)
    engine, running = engines(), stubs(triton)
    body = LONG | {"max_tokens": 1000, "return_num_output_tokens": True}
    with ExitStack() as stack:
        streams = [stack.enter_context(client.open_stream(MODEL, **body)) for _ in range(2 * FRONTS)]
        tokens = [next(events)["num_output_tokens"] for events in streams]
        running[0].kill()
        wait_until(lambda: ENDED.search(triton.log_text()) is not None, 5)
        with ThreadPoolExecutor(len(streams)) as pool:
            complete = [
                begun + more == body["max_tokens"] for begun, more in zip(tokens, pool.map(rest, streams), strict=True)
            ]
    ended = ENDED.search(triton.log_text())
    assert ended is not None
    assert complete.count(False) == int(ended[1])
    assert engines() == engine
    wait_until(lambda: "unload the model and load it again" in triton.log_text(), 10)
    answers = [client.generate(MODEL, text_input="2+3=", temperature=0) for _ in range(4 * FRONTS)]
    assert [answer.text for answer in answers if answer.status == 200] == ["2+3=5"] * 8, "Triton sends the rest to it"


def rest(events: Iterator[dict[str, Any]]) -> int:
    """Tokens of all further events; -1 where none comes for long."""
    try:
        return sum(event.get("num_output_tokens", 0) for event in events)
    except TimeoutError:
        return -1


def test_a_model_that_is_loaded_again_finds_its_engine(client: Client) -> None:
    engine = engines()
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))
    answer = client.load(MODEL)
    assert answer.status == 200, answer.body
    assert engines() == engine
    for _ in range(4 * FRONTS):
        assert client.generate(MODEL, text_input="2+3=", temperature=0).text == "2+3=5"
