"""Embeddings and scores of pooling models through a real server, against the numbers of transformers itself."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from tests.server.client import Client
from tests.server.conftest import Repository, wait_until
from tests.shapes import picture
from tools.installer.server import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.engine]

EMBED, CLASSIFY = "embed_vl", "classify_text"
DECOUPLED = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
BATCHED = DECOUPLED + "model_transaction_policy { decoupled: false }\nmax_batch_size: 8\n"
METRICS = 'parameters { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } }\n'
TEXTS = ("a red circle", "2+3=", "How many shapes are there?")
QUESTION = "Describe the image."
PICTURE = picture(25_000, (224, 224), count=2)
IMAGE = base64.b64encode(PICTURE.encoded()).decode()
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
Floats = npt.NDArray[np.float64]


def normalised(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pooling")
    (folder / "picture.png").write_bytes(PICTURE.encoded())
    command = [sys.executable, "-m", "tests.server.pooling_models", str(folder), str(folder / "picture.png")]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return found | {"classifier": folder / "classifier"}


@pytest.fixture(scope="module")
def hidden(expected: dict[str, Any]) -> dict[str, Floats]:
    """Each prompt's last hidden states, [tokens, size]."""
    return {text: np.array(states) for text, states in expected["hidden"].items()}


@pytest.fixture(scope="class")
def embed_model(repository: Repository, client: Client, load: Callable[[str], None]) -> Iterator[None]:
    # In vLLM only a model whose configuration says so may cut its vectors.
    matryoshka = {"is_matryoshka": True}
    arguments = repository.shapes_args(runner="pooling", convert="embed", hf_overrides=matryoshka, max_model_len=512)
    repository.add(EMBED, DECOUPLED + METRICS, arguments)
    load(EMBED)
    yield
    client.unload(EMBED)
    wait_until(lambda: not client.is_ready(EMBED))


@pytest.fixture(scope="class")
def classify_model(repository: Repository, expected: dict[str, Any], load: Callable[[str], None]) -> None:
    arguments = {
        "model": str(expected["classifier"]),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "gpu_memory_utilization": 0.2,
    }
    repository.add(CLASSIFY, BATCHED, arguments)
    load(CLASSIFY)


@pytest.mark.usefixtures("embed_model")
class TestEmbeddings:
    """shapes_vl as an embedding model: the last token's state, of length one."""

    @pytest.mark.parametrize("text", TEXTS)
    def test_of_a_text(self, client: Client, hidden: dict[str, Floats], text: str) -> None:
        answer = client.generate(EMBED, text_input=text, return_num_input_tokens=True)
        assert answer.status == 200, answer.body
        assert np.allclose(answer.body["embedding"], normalised(hidden[text][-1]), **CLOSE)
        assert answer.body["num_input_tokens"] == len(hidden[text])
        assert not {"text_output", "scores"} & set(answer.body)

    @pytest.mark.parametrize("form", ["image", "messages"])
    def test_of_a_picture_with_a_question(self, client: Client, hidden: dict[str, Floats], form: str) -> None:
        uri = {"url": f"data:image/png;base64,{IMAGE}"}
        parts = [{"type": "image_url", "image_url": uri}, {"type": "text", "text": QUESTION}]
        body = {
            "image": {"text_input": QUESTION, "image": [IMAGE]},
            "messages": {"messages": json.dumps([{"role": "user", "content": parts}])},
        }[form]
        answer = client.generate(EMBED, **body)
        assert answer.status == 200, answer.body
        assert np.allclose(answer.body["embedding"], normalised(hidden[QUESTION][-1]), **CLOSE)

    @pytest.mark.parametrize("dimensions", [16, "64"])
    def test_cut_to_fewer_dimensions(self, client: Client, hidden: dict[str, Floats], dimensions: Any) -> None:
        answer = client.generate(EMBED, text_input=TEXTS[0], dimensions=dimensions)
        assert np.allclose(answer.body["embedding"], normalised(hidden[TEXTS[0]][-1][: int(dimensions)]), **CLOSE)

    def test_as_the_model_gives_it(self, client: Client, hidden: dict[str, Floats]) -> None:
        answer = client.generate(EMBED, text_input=TEXTS[0], use_activation=False)
        assert np.allclose(answer.body["embedding"], hidden[TEXTS[0]][-1], **CLOSE)

    def test_of_each_token(self, triton: TritonServer, hidden: dict[str, Floats]) -> None:
        found = stream_infer(triton, EMBED, TEXTS[0], task="token_embed")
        assert found.dtype == np.float32
        assert found.shape == hidden[TEXTS[0]].shape
        assert np.allclose(found, normalised(hidden[TEXTS[0]]), **CLOSE)

    @pytest.mark.parametrize("dimensions", [None, 16])
    def test_an_official_embedding_request(
        self, client: Client, hidden: dict[str, Floats], dimensions: int | None
    ) -> None:
        request = {"input": TEXTS[0]} | ({"pooling_params": {"dimensions": [dimensions]}} if dimensions else {})
        counts = {"return_num_input_tokens": True, "return_num_output_tokens": True}
        answer = client.generate(EMBED, embedding_request=json.dumps(request), **counts)
        assert answer.status == 200, answer.body
        vector = normalised(hidden[TEXTS[0]][-1][:dimensions])
        assert np.allclose(json.loads(answer.text), vector, **CLOSE)
        assert np.allclose(answer.body["embedding"], vector, **CLOSE)
        assert (answer.body["num_input_tokens"], answer.body["num_output_tokens"]) == (len(hidden[TEXTS[0]]), 0)

    def test_an_official_embedding_request_of_tokens(self, client: Client) -> None:
        answer = client.generate(EMBED, embedding_request=json.dumps({"input": [17, 18, 19]}))
        assert np.linalg.norm(json.loads(answer.text)) == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"text_input": "a", "dimensions": 100_000}, ["dimensions", "[1, 256]", "100000"]),
            ({"text_input": "a", "dimensions": "few"}, ["dimensions", "few"]),
            ({"text_input": "1+1=" * 200}, ["512"]),
            ({"text_input": "a", "task": "classify"}, ["task", "embed", "token_embed", "'classify'"]),
            ({"text_input": "a", "temperature": 0}, ["temperature", "needs a model that generates text"]),
            ({"text_input": "a", "guided_regex": "a"}, ["guided_regex", "needs a model that generates text"]),
            ({"text_input": "a", "return_logprobs": True}, ["return_logprobs", "needs a model that generates text"]),
            ({"text_input": "a", "dimenions": 5}, ["unknown parameter 'dimenions'", "dimensions"]),
            ({"text_input": "a", "image": ["%%%"]}, ["image[0]", "base64"]),
            ({"embedding_request": '{"input": ["a", "b"]}'}, ["embedding_request.input", "['a', 'b']", "token ids"]),
            ({"embedding_request": '{"input": [99999]}'}, ["99999"]),
            ({"embedding_request": "{"}, ["embedding_request", "JSON"]),
        ],
    )
    def test_mistakes_are_explained(self, client: Client, body: dict[str, Any], words: list[str]) -> None:
        answer = client.generate(EMBED, **body)
        assert answer.status == 400, answer.body
        assert [word for word in words if word not in answer.error] == [], answer.error

    def test_a_stream_is_refused(self, client: Client) -> None:
        (event,) = client.stream(EMBED, text_input="a")
        assert "stream: true: needs a model that generates text" in event["error"]


@pytest.mark.usefixtures("classify_model")
class TestScores:
    """A classifier that answers one response per request, in batches."""

    @pytest.mark.parametrize("library", [httpclient, grpcclient])
    def test_of_a_batch(self, triton: TritonServer, expected: dict[str, Any], library: Any) -> None:
        scores = infer(triton, library, TEXTS)
        assert scores.dtype == np.float32
        assert np.allclose(scores, [expected["classes"][text] for text in TEXTS], **CLOSE)

    def test_as_the_model_gives_them(self, triton: TritonServer, expected: dict[str, Any]) -> None:
        logits = infer(triton, grpcclient, TEXTS[:1], use_activation=False).astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert not np.allclose(logits, probabilities)
        assert np.allclose(probabilities, [expected["classes"][TEXTS[0]]], **CLOSE)

    def test_an_embedding_request_is_refused(self, client: Client) -> None:
        tensor = {"name": "embedding_request", "datatype": "BYTES", "shape": [1, 1], "data": ['{"input": "a"}']}
        answer = client.infer(CLASSIFY, [tensor])
        assert answer.status == 501, answer.body
        assert "embedding_request: this model has no task embed" in answer.error

    def test_dimensions_are_refused(self, triton: TritonServer) -> None:
        with pytest.raises(InferenceServerException, match="dimensions") as caught:
            infer(triton, grpcclient, TEXTS[:1], dimensions=5)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def infer(triton: TritonServer, library: Any, texts: tuple[str, ...], **parameters: Any) -> Any:
    """The scores of a batch of texts."""
    tensor = library.InferInput("text_input", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    url = triton.grpc_url if library is grpcclient else triton.http_url.removeprefix("http://")
    with library.InferenceServerClient(url) as connection:
        return connection.infer(CLASSIFY, [tensor], parameters=parameters).as_numpy("scores")


def stream_infer(triton: TritonServer, model: str, text: str, **parameters: Any) -> Any:
    """The embedding that a decoupled model answers over a gRPC stream."""
    answers: Queue[tuple[Any, Any]] = Queue()
    tensor = grpcclient.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
        connection.start_stream(lambda result, error: answers.put((result, error)))
        connection.async_stream_infer(model, [tensor], parameters=parameters)
        result, error = answers.get(timeout=60)
    assert error is None, error
    return result.as_numpy("embedding")
