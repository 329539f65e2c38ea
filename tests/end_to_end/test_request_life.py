"""From arrival to end: who is served first, and what becomes of requests whose client or whose time has gone.

The engine of this model serves one request at a time, so a request that runs keeps all others waiting.
"""

from __future__ import annotations

import http.client
import json
import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import psutil
import pytest

from tests.support.client import Client
from tests.support.front_processes import family, hosts, is_alive, stubs
from tests.support.grpc_calls import Call, Calls, calls
from tests.support.processes import held_by
from tests.support.servers import FRONTS, SHARED_MODEL, Loads, Repository, parameter, wait_until
from tools.installer.server import TritonServer
from vllm_custom.engine.vllm.host import PROGRAM

MODEL = "one_at_a_time"
CONFIG = SHARED_MODEL + parameter("REPORT_CUSTOM_METRICS", "true")
LONG_TOKENS = 24_000
LONG = {"temperature": 0.0, "ignore_eos": True, "max_tokens": LONG_TOKENS}
TIMEOUT_US = 500_000
GENERATED = f'vllm:generation_tokens_total{{model="{MODEL}",version="1"}}'
EVENT_SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads) -> None:
    arguments = repository.shapes_args(
        max_num_seqs=1, max_model_len=32_768, scheduling_policy="priority", enable_log_requests=True
    )
    repository.add(MODEL, CONFIG, arguments)
    load(MODEL)


@pytest.fixture
def begin(triton: TritonServer) -> Iterator[Calls]:
    """Starts a call; calls that a test leaves are cancelled."""
    with calls(triton, MODEL, **LONG) as made:
        yield made


@contextmanager
def running(begin: Calls, request_id: str) -> Iterator[Call]:
    """A long stream that holds the engine, from its first token on until the block ends."""
    call = begin(request_id, tensors={"stream": True})
    assert call.first.wait(EVENT_SECONDS)
    yield call
    assert not call.ended.is_set(), "it should have held the engine until now"
    call.cancel()


class Stream(NamedTuple):
    """A stream that waits for its turn, over whatever protocol."""

    has_begun: Callable[[], bool]
    drop: Callable[[], None]


def has_answered(connection: http.client.HTTPConnection) -> bool:
    """Whether anything has come that nobody has read yet."""
    assert connection.sock is not None
    return bool(select.select([connection.sock], [], [], 0)[0])


def failed(client: Client, code: str) -> float:
    """How many requests have failed with this code."""
    return client.metrics().get(f'vllm_custom:requests_failed_total{{code="{code}",model="{MODEL}",version="1"}}', 0)


def wait_for_engine(triton: TritonServer, *request_ids: str) -> None:
    """Until the engine has taken each of them (vLLM's own log)."""
    for request_id in request_ids:
        wait_until(lambda name=request_id: f"Added request {name}-" in triton.log_text())


class TestCancellation:
    @pytest.mark.parametrize("stream", [True, False])
    def test_of_a_request_that_runs(self, client: Client, triton: TritonServer, begin: Calls, stream: bool) -> None:
        name = f"runs-{stream}"
        generated, cancelled = client.metrics().get(GENERATED, 0), failed(client, "CANCELLED")
        call = begin(name, tensors={"stream": stream})
        wait_until(lambda: client.metrics().get(GENERATED, 0) > generated)
        call.cancel()
        wait_until(lambda: failed(client, "CANCELLED") == cancelled + 1)
        # The engine serves one at a time: this answer means that it has left the other, long before its end.
        assert client.generate(MODEL, text_input="2+3=", temperature=0).text == "2+3=5"
        assert client.metrics()[GENERATED] - generated < LONG_TOKENS
        assert f"Request {name}-" in triton.log_text()

    def test_of_a_request_that_waits_in_the_queue(self, client: Client, triton: TritonServer, begin: Calls) -> None:
        generated, cancelled = client.metrics().get(GENERATED, 0), failed(client, "CANCELLED")
        with running(begin, "holds-the-queue"):
            waiting = begin("waits-to-be-cancelled")
            wait_for_engine(triton, "waits-to-be-cancelled")
            waiting.cancel()
            wait_until(lambda: failed(client, "CANCELLED") == cancelled + 1)
            assert not waiting.texts
        wait_until(lambda: failed(client, "CANCELLED") == cancelled + 2)
        assert client.generate(MODEL, text_input="2+3=", temperature=0).text == "2+3=5"
        assert client.metrics()[GENERATED] - generated < LONG_TOKENS


class TestTimeout:
    def test_while_it_waits_in_the_queue(self, client: Client, triton: TritonServer, begin: Calls) -> None:
        with running(begin, "holds-until-the-timeouts"):
            by_parameter = client.generate(MODEL, text_input="2+3=", parameters={"timeout": TIMEOUT_US})
            assert f"timeout: the request did not finish within {TIMEOUT_US} microsec" in by_parameter.error
            by_protocol = begin("waits-until-its-timeout", timeout=TIMEOUT_US)
            assert by_protocol.ended.wait(EVENT_SECONDS)
            assert "timeout: the request did not finish within" in str(by_protocol.error)


class TestPriority:
    def test_lower_numbers_are_served_first(self, client: Client, triton: TritonServer, begin: Calls) -> None:
        """As a parameter over HTTP; KServe has a priority of its own, so over gRPC in sampling_parameters."""
        order = ("first", "second", "third", "fourth")
        queued: dict[str, Stream] = {}
        with ExitStack() as connections:

            def over_http(name: str, priority: int) -> None:
                parameters = LONG | {"priority": priority}
                sent = client.sent_stream(MODEL, text_input="2+3=", id=name, parameters=parameters)
                connection = connections.enter_context(sent)
                queued[name] = Stream(lambda: has_answered(connection), connection.close)

            def over_grpc(name: str, priority: int) -> None:
                options = json.dumps(LONG | {"priority": priority})
                call = begin(name, tensors={"stream": True, "sampling_parameters": options})
                queued[name] = Stream(call.first.is_set, call.cancel)

            with running(begin, "holds-while-they-queue"):
                over_http("third", 5)
                over_grpc("first", -3)
                over_grpc("fourth", 1_000_000)
                over_http("second", 0)
                wait_for_engine(triton, *order)
            for turn, name in enumerate(order):
                wait_until(queued[name].has_begun)
                assert not [later for later in order[turn + 1 :] if queued[later].has_begun()]
                queued[name].drop()


def test_requests_under_way_finish_at_unload_nothing_is_left_and_load_works_again(
    client: Client, triton: TritonServer, load: Loads
) -> None:
    processes = _processes(triton)
    held = held_by(processes)
    folders = {path.parent for path in held if "/vllm_custom_" in str(path) and path.is_socket()}
    assert folders, "of vLLM's sockets"
    assert [file for folder in folders for file in folder.glob("vllm_dist_*")], "by which its workers find each other"
    body = LONG | {"text_input": "2+3=", "max_tokens": 400, "return_num_output_tokens": True}
    with ThreadPoolExecutor(4) as pool:
        before = client.metrics().get(GENERATED, 0)
        jobs = [pool.submit(client.generate, MODEL, **body) for _ in range(4)]
        wait_until(lambda: client.metrics().get(GENERATED, 0) > before)
        client.unload(MODEL)
        answers = [job.result() for job in jobs]
    assert [answer.body.get("num_output_tokens") for answer in answers] == [400] * 4
    wait_until(lambda: not client.is_ready(MODEL))
    wait_until(lambda: not any(map(is_alive, processes)))
    wait_until(lambda: not [path for path in held if path.exists()])
    load(MODEL)
    assert client.generate(MODEL, text_input="2+3=", temperature=0).text == "2+3=5"


def test_the_engine_ends_with_a_stub_that_is_killed(triton: TritonServer) -> None:
    """The last one here: Triton kills a stub that gives no sign of life, the kernel one that takes too much memory."""
    processes = _processes(triton)
    held = held_by(processes) - held_by([psutil.Process(triton.pid)])
    assert held
    for stub in stubs(triton, MODEL):
        stub.kill()
    wait_until(lambda: not any(map(is_alive, processes)), EVENT_SECONDS)
    wait_until(lambda: not [path for path in held if path.exists()])


def _processes(triton: TritonServer) -> list[psutil.Process]:
    """The model's: Triton's stubs, the host of their engine where they share one, and all below these."""
    found = stubs(triton, MODEL)
    assert len(found) == FRONTS
    every = [one for process in found + hosts(triton, MODEL, PROGRAM) for one in family(process)]
    assert [process for process in every if "EngineCor" in process.name()]
    return every
