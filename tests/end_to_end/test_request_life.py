"""From arrival to end: who is served first, and what becomes of requests whose client or whose time has gone.

The engine of this model serves one request at a time, so a request that runs keeps all others waiting.
"""

from __future__ import annotations

import http.client
import json
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient

from tests.support.client import Client
from tests.support.server_fixtures import Repository, wait_until
from tools.installer.server import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.engine]

MODEL = "one_at_a_time"
CONFIG = """
backend: "vllm_custom"
instance_group [ {{ count: 1, kind: KIND_MODEL }} ]
parameters {{ key: "ALLOWED_MEDIA_DOMAINS" value: {{ string_value: "127.0.0.1:{port}" }} }}
parameters {{ key: "ALLOWED_MEDIA_NETWORKS" value: {{ string_value: "127.0.0.1/32" }} }}
parameters {{ key: "MEDIA_FETCH_TIMEOUT_SECONDS" value: {{ string_value: "240" }} }}
parameters {{ key: "REPORT_CUSTOM_METRICS" value: {{ string_value: "true" }} }}
"""
LONG_TOKENS = 24_000
LONG = {"temperature": 0.0, "ignore_eos": True, "max_tokens": LONG_TOKENS}
TIMEOUT_US = 500_000
GENERATED = f'vllm:generation_tokens_total{{model="{MODEL}",version="1"}}'
SUCCESS = f'vllm_custom:requests_success_total{{model="{MODEL}",version="1"}}'
EVENT_SECONDS = 120


class HeldMedia:
    """An HTTP server that never answers, and knows who has asked and whose connection has been closed since."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.closed = threading.Event()
        held = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                held.asked.set()
                if self.connection.recv(1) == b"":
                    held.closed.set()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        self.asked.clear()
        self.closed.clear()
        return f"http://127.0.0.1:{self.port}/picture.png"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def media() -> Iterator[HeldMedia]:
    server = HeldMedia()
    yield server
    server.close()


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Callable[[str], None], media: HeldMedia) -> None:
    arguments = repository.shapes_args(
        max_num_seqs=1, max_model_len=32_768, scheduling_policy="priority", enable_log_requests=True
    )
    repository.add(MODEL, CONFIG.format(port=media.port), arguments)
    load(MODEL)


class Call:
    """One request over a gRPC stream of its own: its texts and its end, as they come."""

    def __init__(self, triton: TritonServer, request_id: str, **options: Any) -> None:
        self.texts: list[str] = []
        self.error: Exception | None = None
        self.first = threading.Event()
        self.ended = threading.Event()
        tensors = {"text_input": "2+3=", "stream": False} | options.pop("tensors", {})
        self._connection = grpcclient.InferenceServerClient(triton.grpc_url)
        self._connection.start_stream(self._on_answer)
        self._connection.async_stream_infer(
            MODEL,
            [tensor(name, value) for name, value in tensors.items()],
            request_id=request_id,
            enable_empty_final_response=True,
            timeout=options.pop("timeout", None),
            parameters=LONG | options,
        )

    def _on_answer(self, result: Any, error: Exception | None) -> None:
        if error is not None:
            self.error = error
            self.ended.set()
            return
        text = result.as_numpy("text_output")
        self.texts += [] if text is None else [text[0].decode()]
        self.first.set()
        if result.get_response().parameters["triton_final_response"].bool_param:
            self.ended.set()

    def cancel(self) -> None:
        self._connection.stop_stream(cancel_requests=True)

    def close(self) -> None:
        self._connection.stop_stream(cancel_requests=True)
        self._connection.close()


def tensor(name: str, value: Any) -> grpcclient.InferInput:
    data = np.array([value]) if isinstance(value, bool) else np.array([value.encode()], dtype=np.object_)
    made = grpcclient.InferInput(name, [1], "BOOL" if isinstance(value, bool) else "BYTES")
    made.set_data_from_numpy(data)
    return made


Begin = Callable[..., Call]


@pytest.fixture
def begin(triton: TritonServer) -> Iterator[Begin]:
    """Start a call; calls that a test leaves are cancelled."""
    calls: list[Call] = []

    def start(request_id: str, **options: Any) -> Call:
        calls.append(Call(triton, request_id, **options))
        return calls[-1]

    yield start
    for call in calls:
        call.close()


@contextmanager
def running(begin: Begin, request_id: str) -> Iterator[Call]:
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
    def test_of_a_request_that_runs(self, client: Client, triton: TritonServer, begin: Begin, stream: bool) -> None:
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

    def test_of_a_request_that_waits_in_the_queue(self, client: Client, triton: TritonServer, begin: Begin) -> None:
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

    @pytest.mark.parametrize("stream", [True, False])
    def test_of_a_request_whose_picture_is_being_fetched(
        self, client: Client, begin: Begin, media: HeldMedia, stream: bool
    ) -> None:
        cancelled = failed(client, "CANCELLED")
        call = begin(f"fetches-{stream}", tensors={"stream": stream, "image": media.url})
        assert media.asked.wait(EVENT_SECONDS)
        assert not media.closed.is_set()
        call.cancel()
        assert media.closed.wait(EVENT_SECONDS), "the fetch goes on although nobody waits for the picture"
        wait_until(lambda: failed(client, "CANCELLED") == cancelled + 1)


class TestTimeout:
    def test_while_it_waits_in_the_queue(self, client: Client, triton: TritonServer, begin: Begin) -> None:
        with running(begin, "holds-until-the-timeouts"):
            by_parameter = client.generate(MODEL, text_input="2+3=", parameters={"timeout": TIMEOUT_US})
            assert f"timeout: the request did not finish within {TIMEOUT_US} microsec" in by_parameter.error
            by_protocol = begin("waits-until-its-timeout", timeout=TIMEOUT_US)
            assert by_protocol.ended.wait(EVENT_SECONDS)
            assert "timeout: the request did not finish within" in str(by_protocol.error)

    def test_while_a_picture_is_being_fetched(self, client: Client, media: HeldMedia) -> None:
        unavailable = failed(client, "UNAVAILABLE")
        answer = client.generate(
            MODEL, text_input="Describe the image.", image=[media.url], parameters={"timeout": TIMEOUT_US}
        )
        assert "timeout: the request did not finish within" in answer.error
        assert media.closed.wait(EVENT_SECONDS)
        wait_until(lambda: failed(client, "UNAVAILABLE") == unavailable + 1)


class TestPriority:
    def test_lower_numbers_are_served_first(self, client: Client, triton: TritonServer, begin: Begin) -> None:
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


class TestCounts:
    def test_successes_and_failures_by_code(self, client: Client) -> None:
        before = client.metrics().get(SUCCESS, 0)
        refused, absent, unsupported = (failed(client, code) for code in ("INVALID_ARG", "NOT_FOUND", "UNSUPPORTED"))
        for _ in range(3):
            assert client.generate(MODEL, text_input="2+3=", max_tokens=1).status == 200
        assert client.stream(MODEL, text_input="2+3=", max_tokens=2)
        client.generate(MODEL, text_input="2+3=", temperature=-1)
        client.stream(MODEL, text_input="2+3=", tempratur=1)
        client.generate(MODEL, text_input="2+3=", dimensions=8)
        wait_until(lambda: client.metrics().get(SUCCESS, 0) == before + 4)
        wait_until(lambda: failed(client, "INVALID_ARG") == refused + 2)
        wait_until(lambda: failed(client, "UNSUPPORTED") == unsupported + 1)
        assert failed(client, "NOT_FOUND") == absent


def test_the_engine_ends_with_a_stub_that_is_killed(triton: TritonServer) -> None:
    """The last one here: Triton kills a stub that gives no sign of life, the kernel one that takes too much memory."""
    below = psutil.Process(triton.pid).children(recursive=True)
    stub = next(process for process in below if MODEL in " ".join(process.cmdline()))
    engines = stub.children(recursive=True)
    assert [engine for engine in engines if "EngineCor" in engine.name()]
    stub.kill()
    psutil.wait_procs(engines, timeout=EVENT_SECONDS)
    assert not [engine for engine in engines if engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE]
