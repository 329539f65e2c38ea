"""The frontend before a real tritonserver; a small Triton model with openai_request says what has reached it."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.addresses import has_ipv6
from tests.support.certificates import make_certificate
from tests.support.client import Client
from tests.support.echo_model import CONFIG, MODEL
from tests.support.frontend_process import Frontend, HttpApi
from tests.support.servers import Loads, Repository, serving, wait_until
from tools.installer import environment, ports
from tools.installer import frontend as frontend_of_build_py
from tools.installer.server import TritonServer

CHAT = "/v1/chat/completions"
HOST = "::1" if has_ipv6() else "127.0.0.1"
USABLE = 'vllm_custom_frontend_endpoint_usable{model="'


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("frontend_repository"))


@pytest.fixture(scope="module")
def triton(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of its own: what the frontend does depends on all models that there are. By IPv6, where there is any."""
    with serving(repository, tmp_path_factory.mktemp("frontend_triton"), host=HOST) as server:
        yield server


@pytest.fixture(scope="module")
def client(triton: TritonServer) -> Client:
    return Client(triton.http_url, triton.metrics_url)


@pytest.fixture(scope="module", autouse=True)
def echo(repository: Repository, load: Loads) -> str:
    repository.add("echo", CONFIG, None, model__py=MODEL)
    load("echo")
    return "echo"


@pytest.fixture(scope="module")
def frontend(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    log = tmp_path_factory.mktemp("frontend") / "log"
    with Frontend(log, f"--triton={triton.grpc_url}", "--max-body-mib=1", "--request-timeout=90") as made:
        yield made


def ask(**body: Any) -> dict[str, Any]:
    return {"model": "echo", **body}


def test_a_request_reaches_the_model_as_it_was_sent(frontend: Frontend) -> None:
    text = '{"model": "echo",  "messages": [{"content": "\\u00e4 \\ud83d\\ude00 1e400"}], "extra": [1, 2.50]}'
    answer = frontend.post(CHAT, text, x_request_id="mine-1", traceparent="00-1-2-03", authorization="Bearer secret")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    asked = answer.json["asked"]
    assert (asked["path"], asked["method"], asked["body"]) == (CHAT, "POST", json.loads(text))
    assert asked["headers"] == {
        "content-type": "application/json",
        "traceparent": "00-1-2-03",
        "x-request-id": "mine-1",
    }
    assert (asked["id"], asked["timeout"]) == ("mine-1", 90_000_000)
    assert answer.headers["x-request-id"] == "mine-1"


def test_each_request_has_an_id_of_its_own(frontend: Frontend) -> None:
    answers = [frontend.post(CHAT, ask(), **({"x_request_id": given} if given else {})) for given in ("", "a\tb", "")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    assert [answer.json["asked"]["id"] for answer in answers] == ids


@pytest.mark.parametrize("status", [200, 400, 404, 503])
def test_the_models_status_is_the_answers(frontend: Frontend, status: int) -> None:
    assert frontend.post(CHAT, ask(status=status)).status == status


def test_a_stream_arrives_whole(frontend: Frontend) -> None:
    answer = frontend.post(CHAT, ask(events=300))
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.events == [*map(str, range(300)), "[DONE]"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_is_gone_for_triton_too(frontend: Frontend, begun: bool) -> None:
    before = frontend.post(CHAT, ask()).json["gone"]
    left = frontend.counters()["vllm_custom_frontend_disconnects_total"]
    with frontend.open("POST", CHAT, json.dumps(ask(events=1200, pause=0.05))) as response:
        if begun:  # long before the end
            assert b"data: 0" in response.read1()
    wait_until(lambda: frontend.post(CHAT, ask()).json["gone"] == before + 1)
    assert frontend.counters()["vllm_custom_frontend_disconnects_total"] == left + 1


def test_models_are_those_of_the_repository_and_what_they_list(frontend: Frontend) -> None:
    listed = frontend.get("/v1/models").json
    assert [card["id"] for card in listed["data"]] == ["echo", "echo-adapter"]
    assert frontend.get("/v1/models/echo-adapter").json == {"id": "echo-adapter", "object": "model"}
    unknown = frontend.get("/v1/models/nobody")
    assert (unknown.status, unknown.json["error"]["param"]) == (404, "model")


def test_a_single_model_answers_for_its_names_and_for_none(frontend: Frontend) -> None:
    for body in ({"model": "echo"}, {"model": "echo-adapter"}, {}):
        assert frontend.post(CHAT, body).json["asked"]["body"] == body
    for stream in (False, True):
        nobody = frontend.post(CHAT, {"model": "nobody", "stream": stream})
        assert (nobody.status, nobody.json["error"]["type"]) == (404, "NotFoundError")


def test_what_is_no_json_reaches_the_model_as_text(frontend: Frontend) -> None:
    assert frontend.post(CHAT, '{"model":').json["asked"]["body"] == '{"model":'


def test_of_several_models_the_body_names_one(frontend: Frontend, client: Client, repository: Repository) -> None:
    repository.add("second", CONFIG, None, model__py=MODEL)
    assert client.load("second").status == 200
    try:
        wait_until(lambda: len(frontend.get("/v1/models").json["data"]) == 4)
        for name in ("second", "second-adapter", "echo"):
            assert frontend.post(CHAT, {"model": name}).json["asked"]["body"] == {"model": name}
        nobody = frontend.post(CHAT, {"model": "nobody"})
        assert (nobody.status, nobody.json["error"]["type"]) == (404, "NotFoundError")
        assert nobody.json["error"]["message"].startswith("The model `nobody` does not exist.")
        unnamed = frontend.post(CHAT, {})
        assert (unnamed.status, "echo, second" in unnamed.json["error"]["message"]) == (400, True)
    finally:
        client.unload("second")
    wait_until(lambda: not client.is_ready("second"))
    wait_until(lambda: len(frontend.get("/v1/models").json["data"]) == 2)


def test_a_model_is_503_while_it_is_loaded_and_unloaded(
    frontend: Frontend, client: Client, repository: Repository
) -> None:
    body = {"model": "slow"}

    def statuses(last: int) -> list[int]:
        """Of requests one after the other, each once where it repeats, up to the one that ends so."""
        seen = [frontend.post(CHAT, body).status]
        deadline = time.monotonic() + 60
        while seen[-1] != last:
            assert time.monotonic() < deadline, seen
            status = frontend.post(CHAT, body).status
            seen += [status] if status != seen[-1] else []
        return seen

    repository.add("slow", CONFIG, None, model__py=MODEL.replace("self.name =", "time.sleep(3); self.name ="))
    assert frontend.post(CHAT, body).status == 404
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(client.load, "slow")
        assert statuses(200) in ([503, 200], [404, 503, 200])
        assert loaded.result().status == 200
        stream = json.dumps({**body, "events": 20, "pause": 0.2})
        with frontend.open("POST", CHAT, stream) as response:
            assert response.status == 200
            pool.submit(client.unload, "slow").result()
            assert statuses(503) in ([503], [200, 503])
            assert response.read().endswith(b"data: [DONE]\n\n")
        assert statuses(404) in ([404], [503, 404])
    wait_until(lambda: len(frontend.get("/v1/models").json["data"]) == 2)


def test_a_model_that_hangs_holds_up_nobody_else(frontend: Frontend, client: Client, repository: Repository) -> None:
    repository.add("hanging", CONFIG, None, model__py=MODEL)
    assert client.load("hanging").status == 200
    try:
        wait_until(lambda: usable(frontend).get("hanging") == 1)
        assert frontend.post(CHAT, {"model": "hanging", "hang": 15}).status == 200
        longest = 0.0
        while usable(frontend)["hanging"]:
            began = time.monotonic()
            assert frontend.post(CHAT, ask()).status == 200
            assert frontend.get("/health").status == 200
            assert frontend.get("/v1/models/echo").status == 200
            longest = max(longest, time.monotonic() - began)
        assert longest < 3
        answer = frontend.post(CHAT, {"model": "hanging"})
        assert (answer.status, answer.json["error"]["message"]) == (503, "no server with this model responds")
        wait_until(lambda: usable(frontend)["hanging"] == 1)
        assert frontend.post(CHAT, {"model": "hanging"}).status == 200
    finally:
        client.unload("hanging")
    wait_until(lambda: not client.is_ready("hanging"))
    wait_until(lambda: len(frontend.get("/v1/models").json["data"]) == 2)


def usable(frontend: Frontend) -> dict[str, float]:
    """What /metrics says of the endpoints, by model."""
    found = frontend.counters().items()
    return {name.split('"')[1]: value for name, value in found if name.startswith(USABLE)}


@pytest.mark.parametrize("path", ["/v1/messages", "/invocations", "/v1/responses/1/cancel", "/v1/../sleep", "/%6Eope"])
def test_which_other_routes_there_are_the_model_says(frontend: Frontend, path: str) -> None:
    for method, body in (("POST", ask(status=404)), ("GET", None)):
        answer = frontend.call(method, path, None if body is None else json.dumps(body))
        asked = answer.json["asked"]
        assert (answer.status, asked["method"], asked.get("body")) == (404 if body else 200, method, body)
        assert asked["path"] == path.replace("%6E", "n")
        assert "x-request-id" in answer.headers


@pytest.mark.parametrize("path", [CHAT, "/nope"])
def test_other_methods_end_here(frontend: Frontend, path: str) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        answer = frontend.call(method, path, None)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
        assert answer.body == b"" if method == "HEAD" else answer.json == {"detail": "Method Not Allowed"}


def test_a_body_over_the_limit_is_refused_on_every_route(frontend: Frontend) -> None:
    for path, form in (("/v1/responses", "RequestTooLargeError"), ("/v1/messages", "request_too_large")):
        answer = frontend.post(path, json.dumps(ask(text="x" * 1024 * 1024)))
        assert (answer.status, answer.json["error"]["type"]) == (413, form)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused(frontend: Frontend, announced: bool) -> None:
    body = json.dumps(ask(text="x" * 1024 * 1024)).encode()
    if announced:
        answer = frontend.post(CHAT, body)
    else:
        chunks = (
            b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:600_000], body[600_000:])) + b"0\r\n\r\n"
        )
        answer = frontend.post(CHAT, chunks, transfer_encoding="chunked")
    assert (answer.status, answer.json["error"]["type"]) == (413, "RequestTooLargeError")
    assert frontend.post(CHAT, ask(text="x" * 1_000_000)).status == 200


def test_an_error_of_triton_before_the_answer_is_a_502(frontend: Frontend) -> None:
    """Its text is for the log: it may be a traceback."""
    answer = frontend.post(CHAT, ask(refuse="the model is on fire"), x_request_id="burns")
    assert (answer.status, answer.json["error"]["type"]) == (502, "BadGatewayError")
    assert "request burns" in answer.json["error"]["message"]
    assert "on fire" not in answer.json["error"]["message"]
    wait_until(lambda: "request burns: echo on" in frontend.log.read_text())
    assert "the model is on fire" in frontend.log.read_text()


def test_an_error_of_triton_inside_a_stream_is_its_last_event(frontend: Frontend) -> None:
    answer = frontend.post(CHAT, {**ask(events=2), "break": "the model is on fire"})
    assert answer.events[:2] == ["0", "1"]
    assert json.loads(answer.events[2])["error"]["type"] == "BadGatewayError"
    assert answer.events[3] == "[DONE]"


def test_bodies_with_a_byte_order_mark_reach_the_model_and_latin1_does_not(frontend: Frontend) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        answer = frontend.post(CHAT, json.dumps(ask(text="caf\u00e9"), ensure_ascii=False).encode(encoding))
        assert (answer.status, answer.json["asked"]["body"]["text"]) == (200, "caf\u00e9")
    refused = frontend.post(CHAT, json.dumps(ask(text="caf\u00e9"), ensure_ascii=False).encode("latin-1"))
    assert (refused.status, "byte 0xe9" in refused.json["error"]["message"]) == (400, True)


def test_a_line_in_the_log_and_counts_for_each_request(frontend: Frontend) -> None:
    sample = 'vllm_custom_frontend_requests_total{path="/v1/completions",status="200"}'
    before = frontend.counters().get(sample, 0)
    frontend.post("/v1/completions", ask(), x_request_id="in-the-log")
    wait_until(lambda: "in-the-log" in frontend.log.read_text())
    line = next(line for line in frontend.log.read_text().splitlines() if "in-the-log" in line)
    assert '"POST /v1/completions" 200' in line
    assert "model=echo" in line
    counters = frontend.counters()
    assert counters[sample] == before + 1
    # The one that asks is open itself.
    assert counters["vllm_custom_frontend_open_requests"] == 1


def test_keys(triton: TritonServer, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("from-file\n\n")
    arguments = (f"--triton={triton.grpc_url}", "--api-key=given", f"--api-key-file={file}")
    with Frontend(tmp_path / "log", *arguments, env={"VLLM_CUSTOM_API_KEYS": "one, two"}) as keyed:
        for key in ("given", "from-file", "one", "two"):
            assert keyed.post(CHAT, ask(), authorization=f"Bearer {key}").status == 200
        for header in ("Bearer wrong", "Bearer ", "Basic given", "given", "Bearer given2"):
            answer = keyed.post(CHAT, ask(), authorization=header)
            assert (answer.status, answer.json["error"]["type"]) == (401, "AuthenticationError")
        assert keyed.get("/v1/models").status == 401
        refused = keyed.post("/v1/messages", ask(), x_api_key="wrong")
        assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
        assert keyed.post("/v1/messages", ask(), x_api_key="one").status == 200
        assert keyed.post("/v1/messages", ask(), authorization="Bearer one").status == 200
        assert (keyed.get("/health").status, keyed.get("/metrics").status) == (200, 200)
        assert "given" not in keyed.log.read_text()


def test_browsers_of_allowed_origins_may_call(triton: TritonServer, tmp_path: Path) -> None:
    arguments = (f"--triton={triton.grpc_url}", "--cors-origin=https://a.example", "--api-key=k")
    with Frontend(tmp_path / "log", *arguments) as server:
        asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
        allowed = server.call("OPTIONS", CHAT, None, origin="https://a.example", **asked)
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
        refused = server.call("OPTIONS", CHAT, None, origin="https://b.example", **asked)
        assert (refused.status, "access-control-allow-origin" in refused.headers) == (400, False)
        # Without the header a page could not even read that its key is wrong.
        answer = server.post(CHAT, ask(), origin="https://a.example")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, "https://a.example")


def test_tls(triton: TritonServer, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=str(certificate))
    arguments = (f"--triton={triton.grpc_url}", f"--tls-certificate={certificate}", f"--tls-key={key}")
    with Frontend(tmp_path / "log", *arguments, tls=trusted) as server:
        assert server.post(CHAT, ask()).status == 200


def test_without_a_server_the_answer_is_503(tmp_path: Path) -> None:
    nobody = ports.choose("127.0.0.1", 0, "--port", set())
    with Frontend(tmp_path / "log", f"--triton=127.0.0.1:{nobody}") as alone:
        for answer in (alone.post(CHAT, ask()), alone.get("/v1/models")):
            assert (answer.status, answer.json["error"]["type"]) == (503, "ServiceUnavailableError")
        assert alone.get("/health").status == 503


def test_one_of_two_servers_is_enough(triton: TritonServer, tmp_path: Path) -> None:
    nobody = ports.choose("127.0.0.1", 0, "--port", set())
    with Frontend(tmp_path / "log", f"--triton=127.0.0.1:{nobody}", f"--triton={triton.grpc_url}") as pair:
        assert [pair.post(CHAT, ask()).status for _ in range(5)] == [200] * 5
        assert pair.get("/health").status == 200


def test_a_server_that_is_stopped_is_left_out_and_found_again(
    triton: TritonServer, client: Client, tmp_path: Path
) -> None:
    with Frontend(tmp_path / "log", f"--triton={triton.grpc_url}") as server:
        assert server.post(CHAT, ask()).status == 200
        client.unload("echo")
        wait_until(lambda: not client.is_ready("echo"))
        wait_until(lambda: server.post(CHAT, ask()).status == 503)
        wait_until(lambda: server.get("/health").status == 503)
        assert client.load("echo").status == 200
        wait_until(lambda: server.post(CHAT, ask()).status == 200)


def test_open_requests_end_before_the_process_does(triton: TritonServer, tmp_path: Path) -> None:
    server = Frontend(tmp_path / "log", f"--triton={triton.grpc_url}")
    with server, server.open("POST", CHAT, json.dumps(ask(events=20, pause=0.1))) as response:
        first = response.read1()
        server.terminate()
        events = (first + response.read()).decode()
        assert events.endswith("data: 19\n\ndata: [DONE]\n\n")
        server.wait()


def test_a_stream_that_outlasts_the_drain_time_ends_with_an_error(triton: TritonServer, tmp_path: Path) -> None:
    """It broke off, without a line in the log."""
    server = Frontend(tmp_path / "log", f"--triton={triton.grpc_url}", "--drain-seconds=1")
    with server, server.open("POST", CHAT, json.dumps(ask(events=600, pause=0.1)), x_request_id="long") as response:
        first = response.read1()
        server.terminate()
        events = (first + response.read()).decode().removesuffix("\n\n").split("\n\n")
        server.wait()
    assert events[0] == "data: 0"
    assert json.loads(events[-2].removeprefix("data: "))["error"] == {
        "message": "the server ends",
        "type": "ServiceUnavailableError",
        "param": None,
        "code": 503,
    }
    assert events[-1] == "data: [DONE]"
    log = server.log.read_text()
    assert "request long: cut off, since the server ends" in log
    assert f'"POST {CHAT}" 200' in log
    assert "Traceback" not in log


def test_build_py_starts_one_and_stops_it(triton: TritonServer) -> None:
    started = frontend_of_build_py.Frontend(environment.current(), HOST, 0, triton.grpc_url)
    started.start()
    try:
        api = HttpApi(started.port, host=HOST)
        wait_until(lambda: is_ready(api))
        assert api.post(CHAT, ask()).status == 200
    finally:
        started.stop()
    assert started.returncode is not None


def is_ready(api: HttpApi) -> bool:
    try:
        return api.get("/health").status == 200
    except OSError:
        return False
