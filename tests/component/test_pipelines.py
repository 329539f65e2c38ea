"""The examples of model_repository that put something in front of a vLLM model, on the null engine."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

from tests.support import null_model as null_model_files
from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.null_engine import Records
from tests.support.servers import Loads, Repository, wait_until
from tests.support.shapes import picture
from tools.installer.paths import DEFAULT_REPOSITORY
from tools.installer.server import TritonServer

TUTORIAL = "generate_text"
BLS = "bls"
ANSWER = " 0 1 2"
REQUEST: dict[str, Any] = {"prompt": "2+3=", "parameters": {"max_tokens": 3}}


@pytest.fixture(scope="module", autouse=True)
def models(null_model: str, repository: Repository, load: Loads) -> None:
    """The ensemble, which brings its own model along, and the BLS model in front of the shared one."""
    folder = shutil.copytree(DEFAULT_REPOSITORY / "bls_front", repository.folder / BLS)
    config = (folder / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config.replace('"shapes_vl"', f'"{null_model}"'))
    load(TUTORIAL)
    load(BLS)


@pytest.fixture(scope="module")
def openai(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    with Frontend(tmp_path_factory.mktemp("frontend") / "log", f"--triton={triton.grpc_url}") as frontend:
        yield frontend


class TestTutorialForm:
    """prompt, max_tokens, temperature -> generated_text, by plain infer."""

    @pytest.mark.parametrize("library", [httpclient, grpcclient], ids=["http", "grpc"])
    def test_answers_a_batch(self, triton: TritonServer, records: Records, library: Any) -> None:
        request_id = f"tutorial-{library.__name__}"
        tensors = {
            "prompt": np.array([[b"2+3="], [b"1+1="]], object),
            "max_tokens": np.array([[3], [2]], np.int32),
            "temperature": np.array([[0.5], [0.25]], np.float32),
        }
        answers = infer(triton, library, request_id, tensors)
        assert answers.tolist() == [[b"2+3= 0 1 2"], [b"1+1= 0 1"]]
        sampling = records.begun(request_id)["sampling"]
        assert (sampling["max_tokens"], sampling["temperature"]) in [(3, 0.5), (2, 0.25)]

    def test_max_tokens_and_temperature_may_be_left_out(self, triton: TritonServer, records: Records) -> None:
        answers = infer(triton, httpclient, "tutorial-short", {"prompt": np.array([[b"2+3="]], object)})
        assert answers.shape == (1, 1)
        assert records.begun("tutorial-short")["sampling"]["max_tokens"] == 16

    def test_many_clients(self, client: Client) -> None:
        def ask(tokens: int) -> str:
            answer = client.generate(TUTORIAL, prompt="n", max_tokens=tokens)
            return str(answer.body["generated_text"])

        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(ask, range(1, 33)))
        assert answers == ["n" + "".join(f" {index}" for index in range(tokens)) for tokens in range(1, 33)]
        config = client.config("shapes_vl_batched")
        assert config["dynamic_batching"]
        assert config["model_transaction_policy"] == {"decoupled": False}

    def test_an_error_of_the_vllm_model_is_the_ensembles(self, client: Client) -> None:
        assert "temperature must be" in client.generate(TUTORIAL, prompt="n", temperature=-1.0).error


class TestBls:
    def test_one_answer(self, client: Client) -> None:
        answer = client.generate(BLS, request=json.dumps(REQUEST))
        assert json.loads(answer.body["answer"]) == {"text": ANSWER, "finish_reason": "length"}

    def test_streamed(self, client: Client) -> None:
        answers = [json.loads(event["answer"]) for event in client.stream(BLS, request=json.dumps(REQUEST))]
        assert "".join(answer["text"] for answer in answers) == ANSWER
        assert [answer["finish_reason"] for answer in answers] == [None] * (len(answers) - 1) + ["length"]

    def test_image_and_parameters_reach_the_engine(self, triton: TritonServer, records: Records) -> None:
        image = base64.b64encode(picture(1).encoded()).decode()
        request = {"prompt": "Describe.", "images": [image], "parameters": {"max_tokens": 2, "seed": 7}}
        with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
            tensor = grpcclient.InferInput("request", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([json.dumps(request).encode()], object))
            connection.start_stream(lambda result, error: None)
            connection.async_stream_infer(BLS, [tensor], request_id="bls-image")
            begun = records.begun("bls-image")
            assert records.finished("bls-image")
        assert len(begun["media"]) == 1
        assert (begun["sampling"]["max_tokens"], begun["sampling"]["seed"]) == (2, 7)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"prompt": 1}, "request: prompt: expected a string"),
            ({"images": ["zz"]}, "image[0]: expected one of JPEG"),
            ({"parameters": {"tempratur": 1}}, "did you mean temperature?"),
        ],
    )
    def test_what_is_refused(self, client: Client, changes: dict[str, Any], message: str) -> None:
        assert message in client.generate(BLS, request=json.dumps(REQUEST | changes)).error

    def test_a_client_that_has_gone_leaves_nothing_running(self, client: Client) -> None:
        """With Triton 24.10 the vLLM model goes on to its end, which is a second away."""
        long = REQUEST | {"parameters": {"max_tokens": 200}}
        with client.open_stream(BLS, request=json.dumps(long)) as events:
            next(events)
        in_flight = f'vllm_custom:sequences_in_flight{{model="{null_model_files.MODEL}",version="1"}}'
        wait_until(lambda: client.metrics()[in_flight] == 0)
        assert client.generate(BLS, request=json.dumps(REQUEST)).status == 200


class TestOpenAI:
    BODY: dict[str, Any] = {"model": BLS, "messages": [{"role": "user", "content": "2+3="}], "max_tokens": 3}  # noqa: RUF012

    def test_the_model_is_listed_under_its_own_name(self, openai: Frontend) -> None:
        def times() -> int:
            return [card["id"] for card in openai.get("/v1/models").json["data"]].count(BLS)

        wait_until(lambda: times() > 0)
        assert times() == 1

    def test_an_answer(self, openai: Frontend) -> None:
        answer = openai.post("/v1/chat/completions", self.BODY).json
        assert (answer["model"], answer["choices"][0]["message"]["content"]) == (BLS, ANSWER)

    def test_a_stream(self, openai: Frontend) -> None:
        *events, last = openai.post("/v1/chat/completions", self.BODY | {"stream": True}).events
        assert last == "[DONE]"
        chunks = [json.loads(event) for event in events]
        assert {chunk["model"] for chunk in chunks} == {BLS}
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == ANSWER

    def test_an_error_is_openais(self, openai: Frontend) -> None:
        answer = openai.post("/v1/chat/completions", self.BODY | {"temperature": -1})
        assert (answer.status, answer.json["error"]["param"]) == (400, "temperature")


def infer(triton: TritonServer, library: Any, request_id: str, tensors: dict[str, Any]) -> Any:
    """generated_text, by tritonclient's plain infer."""
    kinds = {"prompt": "BYTES", "max_tokens": "INT32", "temperature": "FP32"}
    inputs = []
    for name, values in tensors.items():
        inputs.append(library.InferInput(name, list(values.shape), kinds[name]))
        inputs[-1].set_data_from_numpy(values)
    url = triton.grpc_url if library is grpcclient else triton.http_url.removeprefix("http://")
    connection = library.InferenceServerClient(url)
    try:
        return connection.infer(TUTORIAL, inputs, request_id=request_id).as_numpy("generated_text")
    finally:
        connection.close()
