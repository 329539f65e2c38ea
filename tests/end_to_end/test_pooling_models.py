"""Embeddings and scores of pooling models through a real server, against the numbers of transformers itself."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.servers import SHARED_MODEL, Loads, Repository, wait_until
from tests.support.shapes import picture
from tools.installer.server import TritonServer

EMBED, CLASSIFY, RERANK = "embed_vl", "classify_text", "rerank_text"
BATCHED = SHARED_MODEL + "model_transaction_policy { decoupled: false }\nmax_batch_size: 8\n"
METRICS = 'parameters { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } }\n'
# What the engine does for each request is noted then, by whatever names its arguments are given.
FOLLOWED = 'parameters { key: "LOG_FORMAT" value: { string_value: "json" } }\n'
TEXTS = ("a red circle", "2+3=", "How many shapes are there?")
QUESTION = "Describe the image."
PICTURE = picture(25_000, (224, 224), count=2)
IMAGE = base64.b64encode(PICTURE.encoded()).decode()
# More than this engine, which takes one pair at a time, can score before it learns that the client has gone.
MANY = 4000
ADDED, ABORTED = r"Added request %s-", r"Request %s-\S+ aborted"  # vLLM's own log
LIMIT = f'parameters {{ key: "SCORE_MAX_DOCUMENTS" value: {{ string_value: "{MANY}" }} }}\n'
SMALL = {"dtype": "float32", "enforce_eager": True, "gpu_memory_utilization": 0.2}
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
Floats = npt.NDArray[np.float64]


def normalised(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pooling")
    (folder / "picture.png").write_bytes(PICTURE.encoded())
    command = [sys.executable, "-m", "tests.support.pooling_models", str(folder), str(folder / "picture.png")]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return found | {name: folder / name for name in ("classifier", "cross_encoder")}


@pytest.fixture(scope="module")
def hidden(expected: dict[str, Any]) -> dict[str, Floats]:
    """Each prompt's last hidden states, [tokens, size]."""
    return {text: np.array(states) for text, states in expected["hidden"].items()}


@pytest.fixture(scope="class")
def embed_model(repository: Repository, client: Client, load: Loads) -> Iterator[None]:
    # In vLLM only a model whose configuration says so may cut its vectors.
    matryoshka = {"is_matryoshka": True}
    arguments = repository.shapes_args(runner="pooling", convert="embed", hf_overrides=matryoshka, max_model_len=512)
    repository.add(EMBED, SHARED_MODEL + METRICS + FOLLOWED, arguments)
    load(EMBED)
    yield
    client.unload(EMBED)
    wait_until(lambda: not client.is_ready(EMBED))


@pytest.fixture(scope="class")
def classify_model(repository: Repository, expected: dict[str, Any], load: Loads) -> None:
    arguments = {"model": str(expected["classifier"]), "max_model_len": 512}
    repository.add(CLASSIFY, BATCHED, SMALL | arguments)
    load(CLASSIFY)


@pytest.fixture(scope="class")
def rerank_model(repository: Repository, expected: dict[str, Any], load: Loads) -> None:
    one_at_a_time = {"max_num_seqs": 1, "scheduling_policy": "priority", "enable_log_requests": True}
    arguments = {"model": str(expected["cross_encoder"]), **one_at_a_time}
    repository.add(RERANK, BATCHED + METRICS + FOLLOWED + LIMIT, SMALL | arguments)
    load(RERANK)


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
    def test_of_an_image_with_a_question(self, client: Client, hidden: dict[str, Floats], form: str) -> None:
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
            ({"text_input": "a", "temperature": 0}, ["temperature", "requires a generative model"]),
            ({"text_input": "a", "guided_regex": "a"}, ["guided_regex", "requires a generative model"]),
            ({"text_input": "a", "return_logprobs": True}, ["return_logprobs", "requires a generative model"]),
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

    def test_scores_of_pairs_are_cosines(self, client: Client, hidden: dict[str, Floats]) -> None:
        query, documents = TEXTS[0], list(TEXTS)
        answer = client.generate(EMBED, queries=query, documents=documents, return_num_input_tokens=True)
        assert answer.status == 200, answer.body
        cosines = [normalised(hidden[query][-1]) @ normalised(hidden[text][-1]) for text in documents]
        assert np.allclose(answer.body["scores"], cosines, **CLOSE)
        assert answer.body["num_input_tokens"] == sum(len(hidden[text]) for text in [query, *documents])

    def test_a_query_or_document_that_is_too_long_is_named(self, client: Client) -> None:
        long = "1+1=" * 200
        by_document = client.generate(EMBED, queries="a", documents=["b", long])
        assert by_document.error.startswith("documents[1]: "), by_document.error
        by_query = client.generate(EMBED, queries=["a", long], documents=["b", "c"])
        assert by_query.error.startswith("queries[1]: "), by_query.error

    def test_the_openai_client_gets_the_same(self, frontend: Frontend, hidden: dict[str, Floats]) -> None:
        wait_until(lambda: frontend.get(f"/v1/models/{EMBED}").status == 200)
        with openai.OpenAI(base_url=frontend.base_url, api_key="none", max_retries=0) as api:
            found = api.embeddings.create(model=EMBED, input=list(TEXTS))
        vectors = [item.embedding for item in found.data]
        assert np.allclose(vectors, [normalised(hidden[text][-1]) for text in TEXTS], **CLOSE)

    def test_a_stream_is_refused(self, client: Client) -> None:
        (event,) = client.stream(EMBED, text_input="a")
        assert "stream: true: requires a generative model" in event["error"]


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
        assert "embedding_request: requires the task embed" in answer.error

    def test_pairs_are_refused(self, client: Client) -> None:
        answer = client.infer(CLASSIFY, [strings("queries", [["a"]]), strings("documents", [["b"]])])
        assert answer.status == 501, answer.body
        words = ["queries, documents: requires a cross-encoder", "the task of this model is classify with 3 labels"]
        assert [word for word in words if word not in answer.error] == [], answer.error

    def test_dimensions_are_refused(self, triton: TritonServer) -> None:
        with pytest.raises(InferenceServerException, match="dimensions") as caught:
            infer(triton, grpcclient, TEXTS[:1], dimensions=5)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.usefixtures("rerank_model")
class TestPairs:
    """A cross-encoder with token types, as BERT's; it answers one response per request, in batches."""

    def test_one_query_for_all_documents(self, client: Client, expected: dict[str, Any]) -> None:
        (query, *_), documents = pairs_of(expected)
        answer = client.generate(RERANK, queries=query, documents=documents, return_num_input_tokens=True)
        assert answer.status == 200, answer.body
        logits, tokens = known(expected, query, documents)
        assert np.allclose(answer.body["scores"], 1 / (1 + np.exp(-logits)), **CLOSE)
        assert answer.body["num_input_tokens"] == tokens
        assert not {"text_output", "embedding"} & set(answer.body)

    def test_a_query_for_each_document_over_infer(self, client: Client, expected: dict[str, Any]) -> None:
        queries, documents = pairs_of(expected)
        sent = [strings("queries", [queries]), strings("documents", [documents[: len(queries)]])]
        answer = client.infer(RERANK, [*sent, strings("sampling_parameters", [['{"use_activation": false}']])])
        assert answer.status == 200, answer.body
        (output,) = answer.body["outputs"]
        logits = [known(expected, query, [document])[0][0] for query, document in zip(queries, documents, strict=False)]
        assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [1, len(queries)])
        assert np.allclose(output["data"], logits, **CLOSE)

    def test_rows_of_a_batch_over_grpc(self, triton: TritonServer, expected: dict[str, Any]) -> None:
        queries, documents = pairs_of(expected)
        tensors = [grpc_strings("queries", [[query] for query in queries])]
        tensors += [grpc_strings("documents", [documents, documents[::-1]])]
        with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
            found = connection.infer(RERANK, tensors, parameters={"use_activation": False}).as_numpy("scores")
        assert found.dtype == np.float32
        rows = [known(expected, queries[0], documents)[0], known(expected, queries[1], documents[::-1])[0]]
        assert np.allclose(found, rows, **CLOSE)

    def test_cut_to_a_number_of_tokens(self, client: Client, expected: dict[str, Any]) -> None:
        (query, *_), documents = pairs_of(expected)
        options = {"truncate_prompt_tokens": expected["kept_tokens"], "use_activation": "false", "priority": 3}
        answer = client.generate(RERANK, queries=[query], documents=documents, return_num_input_tokens=True, **options)
        logits, tokens = known(expected, query, documents, "cut")
        assert not np.allclose(logits, known(expected, query, documents)[0], **CLOSE)
        assert np.allclose(answer.body["scores"], logits, **CLOSE)
        assert answer.body["num_input_tokens"] == tokens

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"use_activation": False},
            {"max_tokens_per_doc": 5},
            {"max_tokens_per_query": 2, "max_tokens_per_doc": 3},
            {"truncate_prompt_tokens": 12, "truncation_side": "left"},
            {"truncate_prompt_tokens": -1},
        ],
    )
    def test_the_numbers_of_vllms_own_score_and_rerank(
        self, client: Client, expected: dict[str, Any], options: dict[str, Any]
    ) -> None:
        (query, *_), documents = pairs_of(expected)
        answer = client.generate(RERANK, queries=query, documents=documents, return_num_input_tokens=True, **options)
        scores = answer.body["scores"]
        body = {"model": RERANK, "documents": documents, **options}
        score = called(client, "/v1/score", body | {"queries": query})
        assert scores == pytest.approx([item["score"] for item in score["data"]], abs=1e-6)
        assert answer.body["num_input_tokens"] == score["usage"]["prompt_tokens"]
        ranked = called(client, "/v1/rerank", body | {"query": query})["results"]
        order = sorted(range(len(documents)), key=lambda index: -scores[index])
        assert [item["index"] for item in ranked] == order
        assert [item["relevance_score"] for item in ranked] == pytest.approx([scores[i] for i in order], abs=1e-6)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"queries": "a"}, ["queries and documents require each other", "only queries"]),
            ({"text_input": "c"}, ["exactly one", "text_input", "documents"]),
            ({"queries": ["a", "b"], "documents": ["c", "d", "e"]}, ["queries", "as documents has (3)", "2 elements"]),
            ({"documents": []}, ["documents", "at least 1 element", "0 elements"]),
            ({"documents": ["b"] * (MANY + 1)}, ["documents", f"at most {MANY}", "SCORE_MAX_DOCUMENTS"]),
            ({"image": [IMAGE]}, ["image: cannot be combined with queries", "documents"]),
            ({"dimensions": 5}, ["dimensions", "no effect", "use_activation"]),
            ({"temperature": 1}, ["temperature", "generative model"]),
            ({"instruction": "c"}, ["instruction", "score template"]),
            ({"lora_name": "zh"}, ["LoRA feature is not enabled"]),
            ({"truncate_prompt_tokens": -2}, ["truncate_prompt_tokens", "-2"]),
            ({"truncate_prompt_tokens": 999}, ["truncate_prompt_tokens", "999", "256"]),
            ({"truncate_prompt_tokens": 0}, ["documents[0]", "empty prompt"]),
            ({"truncation_side": "up"}, ["truncation_side", "'up'"]),
            ({"max_tokens_per_doc": 999}, ["max_tokens_per_doc", "999", "256"]),
            ({"stream": True}, ["stream: true", "generative model"]),
        ],
    )
    def test_mistakes_are_explained(self, client: Client, body: dict[str, Any], words: list[str]) -> None:
        pairs = {} if body == {"queries": "a"} else {"queries": "a", "documents": ["b"]}
        answer = client.generate(RERANK, **pairs | body)
        assert answer.status == 400, answer.body
        assert [word for word in words if word not in answer.error] == [], answer.error

    def test_openai_requests_to_a_batched_model_have_one_row(self, client: Client) -> None:
        def infer(*requests: Any) -> list[Any]:
            rows = [[json.dumps(request)] for request in requests]
            answer = client.infer(RERANK, [strings("openai_request", rows)])
            return [tensor["data"] for tensor in answer.body["outputs"] if tensor["name"] == "openai_status"]

        asked = {"path": "/v1/score", "body": {"model": RERANK, "queries": "a", "documents": ["b"]}}
        assert infer(asked) == [[200]]
        assert infer(asked, asked) == [[400]]
        assert infer({"path": "/v1/chat/completions", "body": {"stream": True}}) == [[501]]

    def test_an_option_of_pairs_without_them(self, client: Client) -> None:
        answer = client.generate(RERANK, text_input="a", max_tokens_per_doc=5)
        assert "max_tokens_per_doc: requires the inputs queries and documents" in answer.error

    def test_one_pair_that_is_too_long_keeps_all_from_the_engine(self, client: Client, triton: TritonServer) -> None:
        answer = client.generate(RERANK, id="one-too-long", queries="a", documents=["b", "1+1=" * 200, "c"])
        assert answer.error.startswith("documents[1] with its query: "), answer.error
        assert "256" in answer.error
        assert client.generate(RERANK, id="all-short", queries="a", documents=["b", "c"]).status == 200
        wait_until(lambda: triton.log_text().count("Added request all-short-") == 2)
        assert "Added request one-too-long-" not in triton.log_text()

    def test_all_pairs_of_a_cancelled_request_leave_the_engine(self, client: Client, triton: TritonServer) -> None:
        connection = grpcclient.InferenceServerClient(triton.grpc_url)
        connection.start_stream(lambda result, error: None)
        connection.async_stream_infer(RERANK, many_documents(), request_id="gone")
        wait_until(lambda: "Added request gone-" in triton.log_text())
        connection.stop_stream(cancel_requests=True)
        connection.close()
        cancelled = f'vllm_custom:requests_failed_total{{code="CANCELLED",model="{RERANK}",version="1"}}'
        wait_until(lambda: client.metrics().get(cancelled, 0) == 1)

        def most_were_aborted() -> bool:
            added, aborted = (len(re.findall(line % "gone", triton.log_text())) for line in (ADDED, ABORTED))
            return aborted >= added / 2

        wait_until(most_were_aborted)  # the client has its answer before the engine has been told
        assert client.generate(RERANK, queries="a", documents="b").status == 200

    def test_a_request_whose_time_is_over(self, client: Client, triton: TritonServer) -> None:
        options = json.dumps({"timeout": 500_000})
        with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
            tensors = [*many_documents(), grpc_strings("sampling_parameters", [[options]])]
            with pytest.raises(InferenceServerException, match="timeout: the request did not finish") as caught:
                connection.infer(RERANK, tensors)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert client.generate(RERANK, queries="a", documents="b").status == 200


def pairs_of(expected: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The queries and the documents whose scores are known."""
    queries = list(expected["pairs"])
    return queries, list(expected["pairs"][queries[0]])


def known(expected: dict[str, Any], query: str, documents: list[str], form: str = "whole") -> tuple[Floats, int]:
    """Logits of a query with each document, and the tokens of all."""
    found = [expected["pairs"][query][document][form] for document in documents]
    return np.array([pair["logit"] for pair in found]), sum(pair["tokens"] for pair in found)


def strings(name: str, rows: list[list[str]]) -> dict[str, Any]:
    """A tensor of text, [rows, elements], as KServe's JSON."""
    data = [text for row in rows for text in row]
    return {"name": name, "datatype": "BYTES", "shape": [len(rows), len(rows[0])], "data": data}


def grpc_strings(name: str, rows: list[list[str]]) -> grpcclient.InferInput:
    """The same for gRPC."""
    tensor = grpcclient.InferInput(name, [len(rows), len(rows[0])], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode() for text in row] for row in rows], dtype=np.object_))
    return tensor


def many_documents() -> list[grpcclient.InferInput]:
    return [grpc_strings("queries", [["a"]]), grpc_strings("documents", [[f"{n} " + "x" * 200 for n in range(MANY)]])]


def called(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A call of vLLM's own application on the same engine."""
    answer = client.generate(RERANK, openai_request=json.dumps({"path": path, "body": body}))
    assert (answer.status, answer.body["openai_status"]) == (200, 200), answer.body
    found: dict[str, Any] = json.loads(answer.body["openai_response"])
    return found


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
