"""Typed tensors, timeouts, the limit on requests, ids and defaults: what reaches the engine, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.null_engine import Records
from tests.support.null_model import DEFAULTS, MAX_INFLIGHT, MODEL
from tests.support.servers import wait_until
from tools.installer.server import TritonServer

pytestmark = pytest.mark.usefixtures("null_model")

LONG: dict[str, Any] = {"text_input": "2+3=", "max_tokens": 6000, "ignore_eos": True}


class TestTypedTensors:
    def test_they_are_read_and_win(self, client: Client, records: Records) -> None:
        body = {"text_input": "2+3=", "max_tokens": 5, "seed": 7, "ignore_eos": True, "stop": ["never", "x"]}
        answer = client.generate(MODEL, id="typed", **body, sampling_parameters='{"max_tokens": 9, "top_k": 3}')
        assert answer.status == 200, answer.body
        given = records.begun("typed")["sampling"]
        expected = {"max_tokens": 5, "seed": 7, "ignore_eos": True, "stop": ["never", "x"], "top_k": 3}
        assert {name: given[name] for name in expected} == expected

    def test_a_wrong_number_of_elements_is_explained(self, triton: TritonServer) -> None:
        with grpc(triton) as ask, pytest.raises(Exception, match=r"seed: expected exactly 1 element .*got 2"):
            ask({"text_input": text("2+3="), "seed": np.array([5, 6])})

    def test_a_value_outside_vllms_limits_is_explained(self, client: Client) -> None:
        answer = client.generate(MODEL, text_input="2+3=", temperature=-1.0)
        assert answer.status == 400
        assert "temperature" in answer.error


class TestDefaults:
    """The model's generation_config.json, as vLLM's own application takes it on the same engine."""

    @pytest.mark.parametrize("fields", [{}, {"temperature": 0.5, "top_k": 3}, {"max_tokens": 8000}])
    def test_they_are_those_of_vllm(self, client: Client, records: Records, fields: dict[str, Any]) -> None:
        name = "-".join(("default", *fields))
        _begin(client, id=f"{name}-ours", text_input="2+3=", parameters=fields)
        body = {"model": MODEL, "prompt": "2+3=", "max_tokens": None, "stream": True, **fields}
        call = {"path": "/v1/completions", "body": body, "headers": {"x-request-id": f"{name}-theirs"}}
        _begin(client, openai_request=json.dumps(call))
        ours, theirs = records.begun(f"{name}-ours")["sampling"], records.begun(f"cmpl-{name}-theirs")["sampling"]
        for request_id in (f"{name}-ours", f"cmpl-{name}-theirs"):
            records.finished(request_id)  # by now, or when it is noticed that nobody reads; the model has four places
        assert ours == theirs
        assert ours["repetition_penalty"] == DEFAULTS["repetition_penalty"]
        # Who asks for more gets no more.
        assert ours["max_tokens"] == (DEFAULTS["max_new_tokens"] if "max_tokens" in fields else 16)


class TestTimeout:
    @pytest.mark.parametrize("stream", [False, True])
    def test_the_parameter_ends_the_request(self, client: Client, records: Records, stream: bool) -> None:
        name = f"late-{stream}"
        body = {**LONG, "id": name, "parameters": {"timeout": 300_000}}
        error = client.stream(MODEL, **body)[-1]["error"] if stream else client.generate(MODEL, **body).error
        assert "timeout: the request did not finish within 300000 microseconds of its arrival" in error
        assert not records.finished(name)

    def test_the_timeout_of_a_kserve_request_means_the_same(self, triton: TritonServer) -> None:
        tensors = {"text_input": text("2+3="), "max_tokens": np.array([6000], dtype=np.int32)}
        with grpc(triton) as ask, pytest.raises(Exception, match="timeout: the request did not finish within 300000"):
            ask(tensors, timeout=300_000)

    def test_also_before_the_engine_has_it(self, client: Client, records: Records) -> None:
        answer = client.generate(MODEL, id="at-once", **LONG, parameters={"timeout": 1})
        assert "timeout: " in answer.error
        assert client.generate(MODEL, id="after-it", text_input="2+3=", max_tokens=1).status == 200
        records.begun("after-it")
        assert not records.has_begun("at-once")

    def test_enough_time_changes_nothing(self, client: Client, records: Records) -> None:
        body = {"id": "in-time", "text_input": "2+3=", "max_tokens": 3, "exclude_input_in_output": True}
        answer = client.generate(MODEL, **body, parameters={"timeout": 60_000_000})
        assert (answer.status, answer.text) == (200, " 0 1 2")
        assert records.finished("in-time")

    def test_what_is_no_timeout_is_refused(self, client: Client) -> None:
        answer = client.generate(MODEL, text_input="2+3=", parameters={"timeout": "soon"})
        assert answer.status == 400
        assert "timeout" in answer.error

    def test_of_a_call_of_openais_api(self, client: Client) -> None:
        asked = {"path": "/v1/completions", "body": {"model": MODEL, "prompt": "2+3=", "max_tokens": 6000}}
        answer = client.generate(MODEL, openai_request=json.dumps(asked), timeout=300_000).body
        assert answer["openai_status"] == 504
        assert "timeout" in json.loads(answer["openai_response"])["error"]["message"]


class TestRequests:
    def test_beyond_the_limit_the_answer_comes_at_once(self, client: Client) -> None:
        with ThreadPoolExecutor(2 * MAX_INFLIGHT) as pool:
            body = LONG | {"max_tokens": 50}
            asked = [pool.submit(client.generate, MODEL, **body) for _ in range(2 * MAX_INFLIGHT)]
            answers = [job.result() for job in as_completed(asked)]
        refused, served = answers[:MAX_INFLIGHT], answers[MAX_INFLIGHT:]
        assert all(f"MAX_INFLIGHT_REQUESTS is {MAX_INFLIGHT}" in answer.error for answer in refused)
        assert {answer.status for answer in served} == {200}

    def test_as_many_clients_as_the_limit_are_never_refused(self, client: Client) -> None:
        with ThreadPoolExecutor(MAX_INFLIGHT) as pool:
            answers = pool.map(lambda _: client.generate(MODEL, text_input="2+3=", max_tokens=1), range(100))
            assert {answer.status for answer in answers} == {200}

    def test_ids_are_in_the_log(self, client: Client, triton: TritonServer) -> None:
        client.generate(MODEL, text_input="2+3=", id="my-own-id-77", guided_regex="(a")
        wait_until(lambda: "request my-own-id-77 failed: guided_regex" in triton.log_text(), 10)

    def test_trace_context_is_taken(self, client: Client) -> None:
        context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
        assert client.generate(MODEL, text_input="2+3=", parameters=context).status == 200

    def test_an_adapter_and_a_priority_reach_the_engine(self, client: Client, records: Records) -> None:
        options = json.dumps({"priority": 5, "max_tokens": 1})
        body = {"text_input": "2+3=", "lora_name": "zh", "sampling_parameters": options}
        assert client.generate(MODEL, id="adapted", **body).status == 200
        given = records.begun("adapted")
        assert (given["adapter"], given["priority"]) == ("zh", 5)


def test_the_frontend_tells_too_many_requests_to_come_later(triton: TritonServer, tmp_path: Path) -> None:
    body = json.dumps({"model": MODEL, "prompt": "2+3=", "max_tokens": 6000, "stream": True})
    with Frontend(tmp_path / "log", f"--triton={triton.grpc_url}") as frontend, ExitStack() as streams:
        for _ in range(MAX_INFLIGHT):
            stream = frontend.open("POST", "/v1/completions", body, content_type="application/json")
            assert streams.enter_context(stream).status == 200
        answer = frontend.post("/v1/completions", {"model": MODEL, "prompt": "a"})
        assert (answer.status, answer.json["error"]["type"]) == (503, "ServiceUnavailableError")
        assert "MAX_INFLIGHT_REQUESTS" in answer.json["error"]["message"]
        listed = [card["id"] for card in frontend.get("/v1/models").json["data"]]
        assert {MODEL, "zh", "caps"} <= set(listed), "a model that is busy is still listed"
        streams.close()
        last = {"model": MODEL, "prompt": "a", "max_tokens": 1}
        wait_until(lambda: frontend.post("/v1/completions", last).status == 200)


def _begin(client: Client, **body: Any) -> None:
    """A stream that is read up to its first text: vLLM's application sends its headers before the engine begins."""
    with client.open_stream(MODEL, **body) as events:
        for event in events:
            assert "error" not in event
            if event.get("text_output") or event.get("openai_response"):
                break


def text(value: str) -> Any:
    return np.array([value.encode()], dtype=object)


@contextmanager
def grpc(triton: TritonServer) -> Iterator[Callable[..., Any]]:
    """A function that sends tensors over a gRPC stream and returns the first answer, or raises its error."""
    answers: Queue[tuple[Any, Any]] = Queue()
    with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
        connection.start_stream(lambda result, error: answers.put((result, error)))

        def ask(tensors: dict[str, Any], **options: Any) -> Any:
            inputs = []
            names = {"object": "BYTES", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}
            for name, values in tensors.items():
                tensor = grpcclient.InferInput(name, values.shape, names[str(values.dtype)])
                tensor.set_data_from_numpy(values)
                inputs.append(tensor)
            connection.async_stream_infer(MODEL, inputs, **options)
            result, error = answers.get(timeout=60)
            if error is not None:
                raise error
            return result

        yield ask
