"""OpenAI's API past Triton: the same answers as through Triton, from the same engine, within the same limits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import one_process
from tests.support import superset as superset_model
from tests.support.client import Client
from tests.support.frontend_process import DirectServer, Frontend, HttpAnswer
from tests.support.media_files import Files
from tests.support.openai_answers import comparable
from tests.support.openai_cases import CASES, CHAT, COMPLETIONS, MODEL, Case, image, send, text, user
from tests.support.servers import Repository, serving, wait_until
from tests.support.trace_collector import ENVIRONMENT as SPANS
from tests.support.trace_collector import Collector
from tools.installer.server import TritonServer

pytestmark = pytest.mark.timeout(600)

PLACES = 40
LONG: dict[str, Any] = {"text_input": "2+3=", "temperature": 1.0, "ignore_eos": True, "max_tokens": 6000}
STREAM: dict[str, Any] = {
    "model": MODEL,
    "prompt": "2+3=",
    "temperature": 1.0,
    "ignore_eos": True,
    "max_tokens": 6000,
    "stream": True,
}
REFUSED = "MAX_INFLIGHT_REQUESTS"
SUCCEEDED = f'vllm_custom:requests_success_total{{model="{MODEL}",version="1"}}'


@pytest.fixture(scope="module")
def triton(files: Files, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of its own: its model has the name that the cases use."""
    repository = Repository(tmp_path_factory.mktemp("repository"))
    arguments = superset_model.engine_args(repository, tmp_path_factory.mktemp("generation_config"))
    media = tmp_path_factory.mktemp("media")
    more = {"SHARE_ENGINE": "true", "MAX_INFLIGHT_REQUESTS": PLACES}
    traced = arguments | {"otlp_traces_endpoint": collector.url}
    superset_model.add(repository, traced, files_port=files.port, media_folder=media, **more)
    env = one_process.ENVIRONMENT | SPANS
    with serving(repository, tmp_path_factory.mktemp("triton"), models=[MODEL], env=env) as server:
        yield server


@pytest.fixture(scope="module")
def client(triton: TritonServer) -> Client:
    return Client(triton.http_url, triton.metrics_url)


@pytest.fixture(scope="module")
def frontend(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    with Frontend(tmp_path_factory.mktemp("frontend") / "log", f"--triton={triton.grpc_url}") as made:
        yield made


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("direct") / "log"


@pytest.fixture(scope="module")
def direct(triton: TritonServer, log: Path, collector: Collector) -> Iterator[DirectServer]:
    options = f"--server={triton.pid}", f"--otlp-traces-endpoint={collector.url}", "--log-format=json"
    with DirectServer(log, *options, env=SPANS) as made:
        yield made


@pytest.mark.parametrize("stream", [True, False])
def test_one_trace_and_one_line_from_http_to_vllm(
    direct: DirectServer, collector: Collector, log: Path, stream: bool
) -> None:
    trace, above = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    collector.outside.add(above)
    body = {"model": MODEL, "prompt": "2+3=", "max_tokens": 4, "stream": stream}
    request_id = f"traced-{stream}"
    answer = direct.post(COMPLETIONS, body, traceparent=f"00-{trace}-{above}-01", x_request_id=request_id)
    assert answer.status == 200
    span = collector.of_openai_request(request_id)
    spans = collector.above(span)
    assert [each.name for each in spans] == ["engine", "request", f"POST {COMPLETIONS}"]
    assert {span.trace_id, *(each.trace_id for each in spans)} == {trace}
    assert spans[-1].parent_id == above
    assert {"admission", "render", "engine"} <= set(collector.below(spans[1]))
    wait_until(lambda: log.read_text().count(f'"request_id": "{request_id}"') == 2)
    lines = [json.loads(line) for line in log.read_text().splitlines() if request_id in line and line.startswith("{")]
    model, http = sorted(lines, key=lambda line: line["logger"] != "vllm_custom")
    assert (model["status"], http["status"]) == ("OK", 200)
    assert {line["trace_id"] for line in lines} == {trace}
    assert model["prompt_tokens"] > 0
    assert 0 < model["output_tokens"] <= 4
    assert {"queue_seconds", "prefill_seconds"} <= set(model)


def as_a_whole(answer: HttpAnswer) -> Any:
    """What the chunks of a stream add up to: where one of the two doors is slower, a chunk of it holds more."""
    chunks = [json.loads(data) for data in answer.events if data != "[DONE]"] if answer.status == 200 else []
    if not any(chunk.get("choices") for chunk in chunks if isinstance(chunk, dict)):
        return comparable(answer)
    texts: dict[int, str] = {}
    ends: dict[int, tuple[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        piece = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
        texts[choice["index"]] = texts.get(choice["index"], "") + piece
        if choice["finish_reason"] is not None:
            ends[choice["index"]] = choice["finish_reason"], choice.get("stop_reason")
    usage = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]
    return answer.status, texts, ends, usage[-1:], answer.events[-1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_that_of_the_way_through_triton(
    case: Case, frontend: Frontend, direct: DirectServer, files: Files
) -> None:
    by_triton, by_itself = (as_a_whole(send(api, case, files.url)) for api in (frontend, direct))
    assert by_itself == by_triton


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{{ 7*7 }}"},
        {"n": 129},
        {"vllm_xargs": {"a": 1}},
        {"messages": user({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}, text("2+2="))},
        {"messages": user({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, text("2+2="))},
        {"mm_processor_kwargs": {"patch_size": 7}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_refused_is_refused_in_the_same_words(
    fields: dict[str, Any], frontend: Frontend, direct: DirectServer
) -> None:
    body = {"model": MODEL, "messages": user(image(), text("Describe the image.")), "max_tokens": 4, **fields}
    answers = [api.post(CHAT, body) for api in (frontend, direct)]
    assert answers[0].status == 400
    assert comparable(answers[1]) == comparable(answers[0])


def test_both_list_the_same_models(frontend: Frontend, direct: DirectServer) -> None:
    listed = [[card["id"] for card in api.get("/v1/models").json["data"]] for api in (frontend, direct)]
    assert listed[0] == listed[1]
    assert len(listed[0]) == 3


def test_the_limit_on_requests_is_that_of_both_doors(client: Client, direct: DirectServer) -> None:
    half = PLACES // 2
    with ExitStack() as stack:
        events = stack.enter_context(client.open_stream(MODEL, **LONG, n=half))
        assert "error" not in next(events)
        payload = json.dumps({**STREAM, "n": half})
        opened = stack.enter_context(direct.open("POST", COMPLETIONS, payload, content_type="application/json"))
        assert opened.status == 200
        assert opened.readline()
        refused = direct.post(COMPLETIONS, {**STREAM, "max_tokens": 1})
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert REFUSED in refused.json["error"]["message"]
        assert REFUSED in client.generate(MODEL, text_input="2+3=").error
    wait_until(lambda: direct.post(COMPLETIONS, {**STREAM, "n": PLACES, "max_tokens": 1}).status == 200)


def test_requests_are_counted_by_the_door_that_they_came_by(client: Client, direct: DirectServer) -> None:
    def counts() -> tuple[float, float]:
        return client.metrics().get(SUCCEEDED, 0.0), direct.counters().get(SUCCEEDED, 0.0)

    # What came before is counted on a thread, and may still be.
    while (before := counts()) != (time.sleep(1), counts())[1]:
        pass
    answer = direct.post(COMPLETIONS, {**STREAM, "stream": False, "max_tokens": 3}, x_request_id="mine")
    assert answer.headers["x-request-id"] == "mine"
    assert "mine" in answer.json["id"]
    wait_until(lambda: counts() == (before[0], before[1] + 1))
    assert direct.counters()[f'vllm:generation_tokens_total{{engine="0",model_name="{MODEL}"}}'] > 0


def test_a_killed_process_costs_its_own_requests_and_is_replaced(
    client: Client, direct: DirectServer, triton: TritonServer
) -> None:
    (worker,) = direct.workers
    with ExitStack() as stack:
        events = stack.enter_context(client.open_stream(MODEL, **{**LONG, "max_tokens": 1500}))
        next(events)
        payload = json.dumps({**STREAM, "n": PLACES // 2})
        opened = stack.enter_context(direct.open("POST", COMPLETIONS, payload, content_type="application/json"))
        assert opened.readline()
        worker.kill()
        assert b"[DONE]" not in drained(opened)
        assert not [event for event in events if "error" in event]
    # Its places are free at once, and whoever asks through Triton notices nothing else.
    wait_until(
        lambda: "error" not in client.generate(MODEL, text_input="2+3=", n=PLACES, temperature=1.0, max_tokens=1).body,
        10,
    )
    wait_until(direct.is_ready)
    assert direct.workers != [worker]
    assert direct.post(COMPLETIONS, {**STREAM, "stream": False, "max_tokens": 3}).status == 200
    assert "unload the model and load it again" not in triton.log_text()


def drained(opened: Any) -> bytes:
    """What still comes of an answer."""
    try:
        return bytes(opened.read())
    except Exception:  # the connection was cut off
        return b""


def test_sigterm_lets_requests_end(client: Client, direct: DirectServer, triton: TritonServer) -> None:
    """The last test: the server is gone then."""
    # Few enough for a machine that is very busy: the server waits for half a minute.
    payload = json.dumps({**STREAM, "max_tokens": 400})
    with direct.open("POST", COMPLETIONS, payload, content_type="application/json") as opened:
        assert opened.readline()
        direct.terminate()
        began = time.monotonic()
        assert b"[DONE]" in opened.read()
    assert direct.wait() == 0
    assert time.monotonic() - began < 25
    assert client.generate(MODEL, text_input="2+3=", temperature=0).status == 200
