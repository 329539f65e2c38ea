"""Two instances on one null engine behind the frontend: its host is killed in the middle of streams."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from tests.support.client import Client
from tests.support.front_processes import hosts, is_alive, stubs
from tests.support.frontend_process import Frontend
from tests.support.servers import Loads, Repository, parameter, wait_until
from tools.installer.server import TritonServer

pytestmark = pytest.mark.timeout(400)

MODEL = "null_restarts"
FRONTS = 2
STREAMS = 4
HOST = "null_core_host"
CONFIG = f"""
backend: "vllm_custom"
instance_group [ {{ count: {FRONTS}, kind: KIND_MODEL }} ]
"""
PARAMETERS = {
    "REPORT_CUSTOM_METRICS": "true",
    "ENGINE_GRACE_PERIOD": 2,
    "ENGINE_RESTARTS": 20,
    "ENGINE_RESTART_BACKOFF_SECONDS": 0,
    "MAX_INFLIGHT_REQUESTS": 2 * STREAMS,
}
SHORT: dict[str, Any] = {"text_input": "Hello", "max_tokens": 2}
# A minute.
LONG: dict[str, Any] = {"text_input": "Hello", "max_tokens": 7000}
CHAT = "/v1/chat/completions"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
LABELS = f'model="{MODEL}",version="1"'
DEATHS, UP = f"vllm_custom:engine_deaths_total{{{LABELS}}}", f"vllm_custom:engine_up{{{LABELS}}}"
RESTARTS = f'vllm_custom:engine_restarts_total{{model="{MODEL}",result="succeeded",version="1"}}'


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads) -> None:
    config = CONFIG + "".join(parameter(*item) for item in PARAMETERS.items())
    repository.add(MODEL, config, repository.shapes_args())
    load(MODEL)


@pytest.fixture(scope="module")
def frontend(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    with Frontend(tmp_path_factory.mktemp("frontend") / "log", f"--triton={triton.grpc_url}") as made:
        yield made


def host_of(triton: TritonServer) -> psutil.Process:
    """The host of this model's engine."""
    (found,) = hosts(triton, MODEL, HOST)
    return found


def is_served(client: Client) -> bool:
    """Whether each instance answers."""
    return all(client.generate(MODEL, **SHORT).status == 200 for _ in range(2 * FRONTS))


def kill_in_the_middle_of_streams(client: Client, triton: TritonServer) -> list[list[dict[str, Any]]]:
    """The last events of the streams."""
    with ExitStack() as stack:
        streams = [stack.enter_context(client.open_stream(MODEL, **LONG)) for _ in range(STREAMS)]
        for events in streams:
            next(events)
        host_of(triton).kill()
        return [[event for event in events if "error" in event] for events in streams]


def test_the_host_of_the_engine_is_killed_and_the_model_serves_again(
    client: Client, triton: TritonServer, frontend: Frontend
) -> None:
    wait_until(lambda: frontend.get(f"/ready/{MODEL}").status == 200)
    running = stubs(triton, MODEL)
    for number in (1, 2):
        ends = kill_in_the_middle_of_streams(client, triton)
        assert [["has died" in event["error"] for event in end] for end in ends] == [[True]] * STREAMS
        wait_until(lambda: is_served(client))
        wait_until(lambda number=number: client.metrics().get(RESTARTS) == number)
        assert (client.metrics()[DEATHS], client.metrics()[UP]) == (number, 1), "one front counts for all"
        wait_until(lambda: frontend.get(f"/ready/{MODEL}").status == 200)
        assert frontend.post(CHAT, ASKED | {"max_tokens": 2}).status == 200
    assert stubs(triton, MODEL) == running, "no model process was touched"


def test_the_limit_on_requests_is_the_models_after_it(client: Client, triton: TritonServer) -> None:
    """What was counted before is neither forgotten nor counted twice."""
    kill_in_the_middle_of_streams(client, triton)
    wait_until(lambda: is_served(client))
    with ExitStack() as stack:
        streams = [stack.enter_context(client.open_stream(MODEL, **LONG)) for _ in range(2 * STREAMS)]
        assert [event for event in map(next, streams) if "error" in event] == []
        assert "MAX_INFLIGHT_REQUESTS" in client.generate(MODEL, **SHORT).body.get("error", "")
    wait_until(lambda: is_served(client))


def test_the_frontend_says_so_with_no_request(triton: TritonServer, frontend: Frontend) -> None:
    """A host that hangs keeps the engine from coming back: so long the model is not ready, and says when to come."""
    wait_until(lambda: frontend.get("/ready").status == 200)
    host = host_of(triton)
    stop = threading.Event()

    def keep_down() -> None:
        while not stop.wait(0.1):
            for other in hosts(triton, MODEL, HOST):
                if other != host:
                    other.send_signal(signal.SIGSTOP)

    keeper = threading.Thread(target=keep_down)
    keeper.start()
    try:
        host.kill()
        wait_until(lambda: frontend.get(f"/ready/{MODEL}").status == 503)
        assert frontend.get("/live").status == 200
        refused = frontend.post(CHAT, ASKED)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "is being started again" in refused.json["error"]["message"]
    finally:
        stop.set()
        keeper.join()
        for other in hosts(triton, MODEL, HOST):
            other.send_signal(signal.SIGCONT)
    wait_until(lambda: frontend.get(f"/ready/{MODEL}").status == 200)
    assert frontend.post(CHAT, ASKED | {"max_tokens": 2}).status == 200


def test_nothing_is_left_after_unload(client: Client, triton: TritonServer) -> None:
    host = host_of(triton)
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))
    wait_until(lambda: not is_alive(host))
