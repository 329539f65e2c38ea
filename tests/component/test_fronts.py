"""Three instances on one engine, the null engine: limits and metrics are the model's, and a killed one is replaced."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.front_processes import family, folders, hosts, is_alive, stubs
from tests.support.servers import Loads, Repository, parameter, wait_until
from tools.installer.healing import Healer
from tools.installer.server import TritonServer

pytestmark = pytest.mark.timeout(400)
KILLS = pytest.mark.skipif(
    not os.environ.get("VLLM_CUSTOM_TEST_FRONTS"),
    reason="not run: Triton 24.10 may abort when a model's process is killed; set VLLM_CUSTOM_TEST_FRONTS=1",
)

MODEL = "null_fronts"
FRONTS = 3
PLACES = 8
GPU = "5"  # which the null engine does not look for
HOST = "null_core_host"
CONFIG = f"""
backend: "vllm_custom"
instance_group [ {{ count: {FRONTS}, kind: KIND_MODEL }} ]
"""
LABELS = f'{{model="{MODEL}",version="1"}}'
SUCCEEDED = f"vllm_custom:requests_success_total{LABELS}"
REFUSED = f'vllm_custom:requests_failed_total{{code="UNAVAILABLE",model="{MODEL}",version="1"}}'
ATTACHED, LOST, REPLACED = (f"vllm_custom:fronts{what}{LABELS}" for what in ("", "_lost_total", "_replaced_total"))
SHORT: dict[str, Any] = {"text_input": "Hello", "max_tokens": 2}
# Eight seconds.
HELD_TOKENS = 800
# A minute.
LONG: dict[str, Any] = {"text_input": "Hello", "max_tokens": 7000}


@pytest.fixture(scope="module")
def others() -> set[Path]:
    """Folders that somebody else's engines have, or had when they were killed."""
    return set(folders(MODEL))


@pytest.fixture(scope="module", autouse=True)
def model(others: set[Path], repository: Repository, load: Loads) -> None:
    parameters = {
        "MAX_INFLIGHT_REQUESTS": PLACES,
        "REPORT_CUSTOM_METRICS": "true",
        "ENGINE_GRACE_PERIOD": 20,
        "GPU_DEVICE_IDS": ";".join([GPU] * FRONTS),
    }
    config = CONFIG + "".join(parameter(*item) for item in parameters.items())
    repository.add(MODEL, config, repository.shapes_args())
    load(MODEL)


def value(client: Client, name: str) -> float:
    return client.metrics().get(name, 0)


def test_they_share_one_engine_by_default(triton: TritonServer, client: Client, others: set[Path]) -> None:
    assert len(stubs(triton, MODEL)) == FRONTS
    assert len(hosts(triton, MODEL, HOST)) == 1
    assert len(set(folders(MODEL)) - others) == 1
    wait_until(lambda: value(client, ATTACHED) == FRONTS)
    assert (value(client, LOST), value(client, REPLACED)) == (0, 0)


def test_each_is_told_its_gpus(triton: TritonServer) -> None:
    said = f"Detected KIND_MODEL instance with GPU_DEVICE_IDS specified: GPUs {GPU}, CUDA_VISIBLE_DEVICES={GPU}"
    assert triton.log_text().count(said) >= FRONTS


@pytest.mark.parametrize("turn", range(2))
def test_the_limit_on_requests_is_the_models(client: Client, turn: int) -> None:
    succeeded, refused = value(client, SUCCEEDED), value(client, REFUSED)
    with ExitStack() as stack:
        streams = [stack.enter_context(client.open_stream(MODEL, **LONG)) for _ in range(PLACES)]
        begun = [next(events) for events in streams]
        assert [event for event in begun if "error" in event] == []
        began = time.monotonic()
        for _ in range(4 * FRONTS):
            answer = client.generate(MODEL, **SHORT)
            assert f"MAX_INFLIGHT_REQUESTS is {PLACES}" in answer.body.get("error", "")
        assert time.monotonic() - began < 10
    wait_until(lambda: client.generate(MODEL, **SHORT).status == 200, 10)
    with ThreadPoolExecutor(PLACES) as pool:  # each front gives back what it has taken
        wait_until(lambda: _all_answered(client, pool), 10)
    wait_until(lambda: value(client, REFUSED) - refused >= 4 * FRONTS)
    assert value(client, SUCCEEDED) - succeeded >= 1 + PLACES


def _all_answered(client: Client, pool: ThreadPoolExecutor) -> bool:
    return all(answer.status == 200 for answer in pool.map(lambda _: client.generate(MODEL, **SHORT), range(PLACES)))


def test_requests_are_counted_once_whichever_front_serves_them(client: Client) -> None:
    before = value(client, SUCCEEDED)
    with ThreadPoolExecutor(PLACES) as pool:
        answers = list(pool.map(lambda _: client.generate(MODEL, **SHORT), range(60)))
    assert [answer.status for answer in answers] == [200] * 60
    wait_until(lambda: value(client, SUCCEEDED) - before == 60)


class Requests:
    """Short requests, one after the other, until told to stop."""

    def __init__(self, client: Client) -> None:
        self.failed: list[tuple[float, str]] = []
        self.answered = 0
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(3)]

    def __enter__(self) -> Requests:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.05):
            began = time.monotonic()
            try:
                answer = self._client.generate(MODEL, **SHORT)
            except OSError as error:
                self.failed.append((began, repr(error)))
                continue
            if answer.status == 200:
                self.answered += 1
            else:
                self.failed.append((began, answer.error))


@KILLS
def test_a_killed_front_is_replaced_while_the_others_serve(
    client: Client, triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Triton never answers the requests that a killed process had.
    monkeypatch.setattr("tests.support.client.TIMEOUT_SECONDS", 60)
    said: list[str] = []
    healer = Healer(triton.pid, triton.http_url, said.append)
    healer.look()
    host, before = hosts(triton, MODEL, HOST), value(client, REPLACED)
    lost = value(client, LOST)
    with ThreadPoolExecutor(FRONTS + 1) as pool, Requests(client) as requests:
        held = [pool.submit(ask_for_long, client) for _ in range(FRONTS + 1)]
        wait_until(lambda: requests.answered > 20)
        running = stubs(triton, MODEL)
        killed = time.monotonic()
        running[0].kill()
        wait_until(lambda: bool(_looked(healer, said)), 5)
        assert time.monotonic() - killed < 3, "noticed"
        wait_until(lambda: value(client, LOST) - lost == 1, 5)
        wait_until(lambda: not healer.busy, 240)
        healed = time.monotonic()
        assert "have been replaced, in" in said[-1]
        done = requests.answered
        time.sleep(3)
    assert requests.answered > done
    errors = [error for _, error in requests.failed if "not healthy" not in error and "timed out" not in error]
    assert errors == [], "of the killed one only"
    assert [error for began, error in requests.failed if began > healed] == []
    assert len([error for _, error in requests.failed if "timed out" in error]) <= 3, (
        "what it was doing when it was killed"
    )
    assert HELD_TOKENS in {request.result() for request in held}
    assert {request.result() for request in held} <= {HELD_TOKENS, None}, "the others' go on to their end"
    assert hosts(triton, MODEL, HOST) == host
    # Triton keeps the old ones where the killed one had requests.
    wait_until(lambda: len(stubs(triton, MODEL)) == FRONTS)
    assert not set(stubs(triton, MODEL)) & set(running)
    wait_until(lambda: value(client, ATTACHED) == FRONTS)
    healer.look()
    assert not healer.busy
    assert value(client, REPLACED) - before == 1


def ask_for_long(client: Client) -> int | None:
    """Tokens that are answered at once, when all are there; None where there is no answer.

    Not a stream: tritonserver itself may abort where a process is killed while it hands over a response.
    """
    body = LONG | {"max_tokens": HELD_TOKENS, "return_num_output_tokens": True}
    try:
        return int(client.generate(MODEL, **body).body["num_output_tokens"])
    except OSError:
        return None


def _looked(healer: Healer, said: list[str]) -> list[str]:
    healer.look()
    return said


def test_a_model_that_is_loaded_again_serves(triton: TritonServer, client: Client, load: Loads) -> None:
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))
    load(MODEL)
    assert len(hosts(triton, MODEL, HOST)) == 1
    wait_until(lambda: value(client, ATTACHED) == FRONTS)
    assert [client.generate(MODEL, **SHORT).status for _ in range(2 * FRONTS)] == [200] * 2 * FRONTS


def test_nothing_is_left_after_unload(client: Client, triton: TritonServer, others: set[Path]) -> None:
    below = [process for stub in stubs(triton, MODEL) for process in family(stub)]
    below += [process for host in hosts(triton, MODEL, HOST) for process in family(host)]
    client.unload(MODEL)
    wait_until(lambda: not client.is_ready(MODEL))
    wait_until(lambda: not any(is_alive(process) for process in below))
    wait_until(lambda: set(folders(MODEL)) <= others)
