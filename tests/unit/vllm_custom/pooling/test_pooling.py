"""Requests to pooling models: what they may ask for, and what comes back. PoolingParams are vLLM's own."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vllm_custom.engine import ModelFacts
from vllm_custom.engine.vllm import VllmEngine
from vllm_custom.engine.vllm import pooling as vllm_pooling
from vllm_custom.errors import InvalidRequestError, UnavailableError, UnsupportedError
from vllm_custom.pooling import PooledOutput, PoolingBuilder, reject_pooling_request
from vllm_custom.request import InferenceCall, parse_embedding_request, parse_request

pytestmark = pytest.mark.usefixtures("vllm")

EMBED = ("embed", "token_embed")
NAMES = ("temperature", "task", "dimensions", "use_activation")


def text(value: Any) -> Any:
    return np.array([value if isinstance(value, str) else json.dumps(value)], dtype=np.object_)


def call(parameters: str = "{}", **tensors: Any) -> InferenceCall:
    return parse_request({"text_input": text("hi")} | tensors, parameters, NAMES)


def embedding(body: Any, **tensors: Any) -> InferenceCall:
    return parse_embedding_request({"embedding_request": text(body)} | tensors)


def builder(*tasks: str, default: str | None = None) -> PoolingBuilder:
    config = SimpleNamespace(get_pooling_task=lambda found: default) if default else SimpleNamespace()
    llm, found = SimpleNamespace(model_config=config), tasks or EMBED
    no_pairs: Any = SimpleNamespace(field_names=[])
    facts = ModelFacts(
        tasks=found,
        pooling_task=vllm_pooling.pooling_task(llm, found),
        pooling_fields=vllm_pooling.pooling_fields(),
    )
    return PoolingBuilder(VllmEngine(llm, facts), no_pairs)


class TestEmbeddingRequest:
    def test_text_and_tokens(self) -> None:
        assert embedding({"input": "a cat"}).text == "a cat"
        tokens = embedding({"input": [1, 2]})
        assert (tokens.text, tokens.token_ids, tokens.embedding_request) == (None, [1, 2], True)
        assert dict(tokens.sampling) == {"task": "embed"}

    @pytest.mark.parametrize("dimensions", [8, [8]])
    def test_dimensions_also_in_a_list_as_the_frontend_sends_them(self, dimensions: Any) -> None:
        made = embedding({"input": "x", "pooling_params": {"dimensions": dimensions}})
        assert dict(made.sampling) == {"task": "embed", "dimensions": 8}

    def test_token_counts_may_be_asked_for(self) -> None:
        asked = {"return_num_input_tokens": np.array([True]), "return_logprobs": np.array([True])}
        made = embedding({"input": "x"}, **asked)
        assert made.additional_outputs == {"num_input_tokens"}

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("{", "embedding_request: expected a JSON object"),
            ([], r"embedding_request: expected a JSON object, got \[\]"),
            ({}, "embedding_request.input: expected a string, or a list of token ids, got None"),
            ({"input": []}, "embedding_request.input: "),
            ({"input": ["a"]}, "embedding_request.input: "),
            ({"input": [True]}, "embedding_request.input: "),
            ({"input": [-1]}, "embedding_request.input: "),
            ({"input": "x", "pooling_params": [1]}, "embedding_request.pooling_params: expected an object"),
            ({"input": "x", "pooling_params": {"dimensions": "8"}}, "dimensions: expected a positive integer, got '8'"),
            ({"input": "x", "pooling_params": {"dimensions": [0]}}, r"dimensions: expected a positive integer, got"),
        ],
    )
    def test_mistakes(self, body: Any, message: str) -> None:
        with pytest.raises(InvalidRequestError, match=message):
            embedding(body)


class TestTask:
    def test_vllms_choice_unless_the_request_names_one(self) -> None:
        assert builder().task(call()) == "embed"
        assert builder(default="token_embed").task(call()) == "token_embed"
        assert builder().task(call('{"task": "token_embed"}')) == "token_embed"

    @pytest.mark.parametrize("task", ["classify", "generate", "encode", ["embed"]])
    def test_one_that_the_model_does_not_have(self, task: Any) -> None:
        with pytest.raises(InvalidRequestError, match=r"task: expected a task of this model: embed, token_embed, got"):
            builder().task(call(json.dumps({"task": task})))

    def test_an_embedding_request_to_a_classifier(self) -> None:
        with pytest.raises(
            UnsupportedError, match="embedding_request: requires the task embed; this model has classify"
        ):
            builder("classify").task(embedding({"input": "x"}))


class TestParams:
    def test_fields_are_typed_and_the_task_is_set(self) -> None:
        made = builder().build({"dimensions": "8", "use_activation": "false"}, "embed")
        assert (made.dimensions, made.use_activation, made.task) == (8, False, "embed")

    def test_wrong_values_are_named(self) -> None:
        with pytest.raises(InvalidRequestError, match=r"dimensions: expected .*, got 'many'"):
            builder().build({"dimensions": "many"}, "embed")

    def test_the_engines_own_fields_are_no_parameters(self) -> None:
        assert {"task", "dimensions", "use_activation"} <= set(vllm_pooling.pooling_fields())
        assert not {"requires_token_ids", "extra_kwargs", "output_kind"} & set(vllm_pooling.pooling_fields())


class TestChecks:
    @pytest.mark.parametrize(
        ("parameters", "tensors", "name"),
        [
            ('{"temperature": 1}', {}, "temperature"),
            ('{"guided_regex": "a"}', {}, "guided_regex"),
            ('{"response_format": {"type": "text"}}', {}, "response_format"),
            ("{}", {"stream": np.array([True])}, "stream: true"),
            ("{}", {"return_logprobs": np.array([True])}, "return_logprobs"),
        ],
    )
    def test_what_only_models_that_generate_can_do(self, parameters: str, tensors: Any, name: str) -> None:
        message = f"{name}: requires a generative model; this is a pooling model \\(tasks: embed, token_embed\\)"
        with pytest.raises(UnsupportedError, match=message):
            builder().check([call(parameters, **tensors)])

    def test_what_pooling_models_can_do(self) -> None:
        builder().check([call('{"dimensions": 8, "priority": 1}', return_num_input_tokens=np.array([True]))])

    def test_rows_of_different_lengths_do_not_fit_into_a_batch(self) -> None:
        row = call('{"task": "token_embed"}')
        builder().check([row])
        with pytest.raises(
            InvalidRequestError, match=r"task: expected a batch of one row with token_embed, .*, got 2 rows"
        ):
            builder().check([row, row])

    @pytest.mark.parametrize(
        ("made", "name"),
        [(call('{"dimensions": 8}'), "dimensions"), (embedding({"input": "x"}), "embedding_request")],
    )
    def test_what_models_that_generate_cannot_do(self, made: InferenceCall, name: str) -> None:
        with pytest.raises(UnsupportedError, match=f"{name}: requires a pooling model"):
            reject_pooling_request(made, tuple(vllm_pooling.pooling_fields()))
        reject_pooling_request(call('{"temperature": 1}'), tuple(vllm_pooling.pooling_fields()))


def pooled(data: Any, **fields: Any) -> Any:
    import torch

    tensor = torch.tensor(data, dtype=torch.bfloat16)
    return SimpleNamespace(outputs=SimpleNamespace(data=tensor), prompt_token_ids=[1, 2, 3], **fields)


class TestOutput:
    @pytest.mark.parametrize(
        ("task", "name"),
        [("embed", "embedding"), ("token_embed", "embedding"), ("classify", "scores"), ("token_classify", "scores")],
    )
    def test_each_task_has_its_tensor(self, task: str, name: str) -> None:
        arrays = PooledOutput.of(pooled([0.5, 2.0]), task, as_text=False).arrays(frozenset())
        assert {key: value.tolist() for key, value in arrays.items()} == {name: [0.5, 2.0]}
        assert arrays[name].dtype == np.float32

    def test_tokens_are_rows(self) -> None:
        output = PooledOutput.of(pooled([[0.5, 2.0], [1.0, 4.0]]), "token_embed", as_text=False)
        assert output.arrays(frozenset())["embedding"].shape == (2, 2)

    def test_an_embedding_request_also_gets_text_and_counts(self) -> None:
        output = PooledOutput.of(pooled([0.5, 2.0]), "embed", as_text=True)
        arrays = output.arrays(frozenset({"num_input_tokens", "num_output_tokens"}))
        assert json.loads(arrays["text_output"][0]) == [0.5, 2.0]
        assert (arrays["num_input_tokens"].tolist(), arrays["num_output_tokens"].tolist()) == ([3], [0])

    def test_an_error_of_vllm(self) -> None:
        with pytest.raises(UnavailableError, match="vLLM cannot take this request: full"):
            PooledOutput.of(pooled([1.0], error="full"), "embed", as_text=False)
