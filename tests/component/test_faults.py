"""A short fault suite: processes that stop or are killed, and clients that misbehave, next to others that do not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import null_engine
from tests.support.client import Client
from tests.support.front_processes import stubs
from tests.support.null_engine import Records
from tests.support.servers import NULL_BASE, Loads, Repository, parameter, serving, wait_until
from tools.installer.server import TritonServer

pytestmark = pytest.mark.timeout(400)

MODEL = "faults"
FRONTS = 2
PLACES = 40
CONFIG = f"""
backend: "vllm_custom"
instance_group [ {{ count: {FRONTS}, kind: KIND_MODEL }} ]
"""
PARAMETERS = {"REPORT_CUSTOM_METRICS": "true", "ENGINE_GRACE_PERIOD": 0, "MAX_INFLIGHT_REQUESTS": PLACES}
SHORT: dict[str, Any] = {"text_input": "Hello", "max_tokens": 2}
# Half a minute and more.
LONG: dict[str, Any] = {"text_input": "Hello", "max_tokens": 7000}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("faults_repository"))


@pytest.fixture(scope="module")
def triton(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of its own, since the last test ends it."""
    folder = tmp_path_factory.mktemp("faults_triton")
    records = Records(folder / "requests.jsonl")
    env = null_engine.environment(os.environ.get("VLLM_BACKEND_DIR"), folder / "backends", records)
    with serving(repository, folder, env=env, more=(NULL_BASE,)) as server:
        yield server


@pytest.fixture(scope="module")
def client(triton: TritonServer) -> Client:
    return Client(triton.http_url, triton.metrics_url)


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, triton: TritonServer, client: Client) -> None:
    config = CONFIG + "".join(parameter(*item) for item in PARAMETERS.items())
    repository.add(MODEL, config, repository.shapes_args())
    Loads(triton, client)(MODEL)


def whole(tokens: int) -> str:
    """All that the null engine says in so many tokens."""
    return "".join(f" {number}" for number in range(tokens))


def all_places_are_free(client: Client) -> bool:
    """Whether as many requests as there may be can begin."""
    with ExitStack() as stack:
        streams = [stack.enter_context(client.open_stream(MODEL, **LONG)) for _ in range(PLACES)]
        begun = [next(events) for events in streams]
    return not [event for event in begun if "error" in event]


def test_a_front_that_is_stopped_for_a_while_loses_nothing(client: Client, triton: TritonServer) -> None:
    tokens = 600
    stopped, heard_meanwhile, heard = threading.Event(), threading.Event(), [0]

    def read(_: int) -> str:
        with client.open_stream(MODEL, **LONG | {"max_tokens": tokens}) as events:
            texts = []
            for event in events:
                texts.append(str(event.get("text_output", event.get("error"))))
                heard[0] += 1
                if stopped.is_set():
                    heard_meanwhile.set()
            return "".join(texts)

    with ThreadPoolExecutor(4 * FRONTS) as pool:
        running = [pool.submit(read, number) for number in range(4 * FRONTS)]
        wait_until(lambda: heard[0] > 4 * FRONTS)
        victim = stubs(triton, MODEL)[0]
        victim.send_signal(signal.SIGSTOP)
        try:
            stopped.set()
            assert heard_meanwhile.wait(60), "the other front goes on"
            time.sleep(5)
        finally:
            stopped.clear()
            victim.send_signal(signal.SIGCONT)
        assert [answer.result() for answer in running] == [whole(tokens)] * 4 * FRONTS
    assert len(stubs(triton, MODEL)) == FRONTS


def test_clients_that_never_read_hold_up_nobody_else(client: Client) -> None:
    with ExitStack() as stack:
        for _ in range(PLACES // 2):
            stack.enter_context(client.sent_stream(MODEL, **LONG))
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.generate(MODEL, **SHORT), range(40)))
        assert [answer.status for answer in answers] == [200] * 40
    wait_until(lambda: all_places_are_free(client))


def test_clients_that_leave_in_the_middle_of_a_stream_leave_nothing(client: Client) -> None:
    def leave(_: int) -> bool:
        with client.open_stream(MODEL, **LONG) as events:
            return "error" not in next(events)

    with ThreadPoolExecutor(PLACES // 4) as pool:
        begun = list(pool.map(leave, range(5 * PLACES)))
    assert begun.count(True) > PLACES, "some meet the limit, since a client that has left is noticed a moment later"
    wait_until(lambda: all_places_are_free(client))


def test_sigterm_under_load_ends_every_request(client: Client, triton: TritonServer) -> None:
    """What has begun comes to its end; what has not is refused, or finds no server."""
    tokens, stop = 100, threading.Event()
    begun: list[str] = []
    answered: list[tuple[int, dict[str, Any]]] = []

    def stream() -> None:
        while not stop.is_set():
            try:
                with client.open_stream(MODEL, **LONG | {"max_tokens": tokens}) as events:
                    first = next(events, {"error": "refused before it began"})
                    if "error" not in first:
                        begun.append("".join(event.get("text_output", "!") for event in [first, *events]))
            except OSError:
                return

    def ask() -> None:
        while not stop.is_set():
            try:
                answer = client.generate(MODEL, **SHORT)
            except OSError:
                return
            answered.append((answer.status, answer.body))

    threads = [threading.Thread(target=work) for work in (stream, ask) * 4]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(begun) >= 8)
    try:
        assert triton.stop() == []
    finally:
        stop.set()
    for thread in threads:
        thread.join(60)
    assert not [thread for thread in threads if thread.is_alive()], "none hangs"
    assert set(begun) == {whole(tokens)}
    assert [body for status, body in answered if status != 200 and "error" not in body] == []
