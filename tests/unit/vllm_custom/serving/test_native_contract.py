"""Prompts as token ids and embeddings, and what goes with a request to the engine, through the whole service."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support import fakes
from tests.support.fake_engine import FakeEngine
from tests.support.recording_engine import NATIVE, SIZE, Recording, outputs, refusal
from tests.support.service_harness import Model

CODES = fakes.TritonError
MESSAGES = '[{"role": "user", "content": "one two"}]'


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
def model(engine: Recording) -> Iterator[Model]:
    with Model(engine) as model:
        yield model
        model.settle()


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
@pytest.mark.parametrize("stream", [False, True])
def test_token_ids_in_and_out(model: Model, engine: Recording, dtype: Any, stream: bool) -> None:
    sender = model.submit(
        None,
        {"max_tokens": 3},
        input_ids=np.array([5, 6, 7], dtype),
        stream=stream,
        return_output_ids=True,
        return_num_input_tokens=True,
    ).wait()
    assert engine.prompts[0]["prompt_token_ids"] == [5, 6, 7]
    ids = np.concatenate(outputs(sender, "output_ids"), axis=1)
    assert (ids.dtype, ids.tolist()) == (np.int32, [[0, 1, 2]])
    assert outputs(sender, "num_input_tokens")[0].tolist() == [3]


def test_token_ids_where_a_request_has_one_response(engine: Recording) -> None:
    """As /infer wants it."""
    with Model(engine, decoupled=False) as model:
        sender = model.submit(None, {"max_tokens": 2}, input_ids=np.array([5]), return_output_ids=True).wait()
        (ids,) = outputs(sender, "output_ids")
        assert ids.tolist() == [[0, 1]]


def test_nothing_can_be_said_of_the_tokens_of_embeddings(model: Model) -> None:
    values = np.zeros((3, SIZE), np.float32)
    message = refusal(model.submit(None, {"prompt_logprobs": 1}, prompt_embeds=values))
    assert message == "prompt_logprobs: cannot be combined with prompt_embeds, which have no token ids"
    message = refusal(model.submit(None, {"apply_chat_template": True}, prompt_embeds=values))
    assert message == "apply_chat_template: requires text_input or messages"


def test_a_response_has_no_ids_that_nobody_asked_for(model: Model) -> None:
    assert outputs(model.submit().wait(), "output_ids") == []


def test_embeddings_take_the_prompts_place(model: Model, engine: Recording) -> None:
    values = np.arange(3 * SIZE, dtype=np.float32).reshape(3, SIZE)
    outputs(model.submit(None, {"max_tokens": 1}, prompt_embeds=values).wait(), "text_output")
    assert np.array_equal(engine.prompts[0]["prompt_embeds"], values)
    assert engine.prompts[0]["prompt_embeds"] is not values, "the request's memory is Triton's"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"input_ids": np.zeros(0, np.int32)}, "input_ids: expected INT32 or INT64, at least one, got int32 [0]"),
        ({"input_ids": np.zeros(3, np.float32)}, "input_ids: expected INT32 or INT64, at least one, got float32 [3]"),
        (
            {"input_ids": np.zeros(65, np.int32)},
            "input_ids: expected at most 64 token ids (max_model_len of this model)",
        ),
        ({"prompt_embeds": np.zeros((3, 7), np.float32)}, "prompt_embeds: expected FP16 or FP32 [tokens, 8], 8 being"),
        ({"prompt_embeds": np.zeros((0, 8), np.float32)}, "prompt_embeds: expected FP16 or FP32 [tokens, 8]"),
        ({"prompt_embeds": np.zeros(8, np.float32)}, "prompt_embeds: expected FP16 or FP32 [tokens, 8]"),
        ({"prompt_embeds": np.zeros((3, 8), np.float64)}, "prompt_embeds: expected FP16 or FP32 [tokens, 8]"),
        ({"prompt_embeds": np.zeros((65, 8), np.float16)}, "prompt_embeds: expected at most 64 rows (max_model_len"),
        ({"prompt_embeds": np.full((1, 8), np.nan, np.float32)}, "prompt_embeds: contains non-finite values"),
        (
            {"input_ids": np.ones(1, np.int32), "text_input": "x"},
            "exactly one of the inputs text_input, messages, input",
        ),
        (
            {"input_ids": np.ones(1, np.int32), "image": [b"x"]},
            "image: cannot be combined with input_ids and prompt_emb",
        ),
    ],
)
def test_prompts_that_no_engine_can_take_are_refused(model: Model, tensors: dict[str, Any], message: str) -> None:
    text = tensors.pop("text_input", None)
    assert refusal(model.submit(text, **tensors)).startswith(message)


def test_embeddings_need_an_engine_that_takes_them() -> None:
    with Model(FakeEngine(dataclasses.replace(NATIVE, prompt_embeds_size=None))) as model:
        message = refusal(model.submit(None, prompt_embeds=np.zeros((1, 8), np.float32)))
    assert message.startswith('prompt_embeds: this model accepts none; "enable_prompt_embeds": true in model.json')


def test_what_goes_with_a_request_to_the_engine(model: Model, engine: Recording) -> None:
    given = {"session_id": "chat-7", "data_parallel_rank": 1, "cache_salt": "tenant", "max_tokens": 1}
    for tensors in ({}, {"messages": MESSAGES}):
        outputs(model.submit(None if tensors else "one", given, **tensors).wait(), "text_output")
    assert [(options.session_id, options.data_parallel_rank) for options in engine.options] == [("chat-7", 1)] * 2
    assert [prompt["cache_salt"] for prompt in engine.prompts] == ["tenant"] * 2


def test_documents_reach_the_template(model: Model, engine: Recording) -> None:
    documents = [{"title": "a", "text": "b"}]
    for sent in (documents, '[{"title": "a", "text": "b"}]'):
        outputs(model.submit(None, {"documents": sent}, messages=MESSAGES).wait(), "text_output")
    outputs(model.submit("one", {"documents": documents, "apply_chat_template": True}).wait(), "text_output")
    assert [given["documents"] for given in engine.template_kwargs] == [documents] * 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"data_parallel_rank": 2},
            "data_parallel_rank: expected a number from 0 to 1, the ranks of this engine, got 2",
        ),
        ({"data_parallel_rank": -1}, "data_parallel_rank: expected a valid value"),
        ({"cache_salt": ""}, "cache_salt: expected a valid value"),
        ({"cache_salt": "a/b"}, "cache_salt: expected a valid value"),
        ({"cache_salt": "a" * 129}, "cache_salt: expected a valid value"),
        ({"session_id": "a" * 257}, "session_id: expected a valid value"),
        (
            {"documents": [{"text": "x"}]},
            "documents: requires the chat template (messages, or apply_chat_template: true)",
        ),
        ({"documents": ["x"]}, "documents: expected a valid value"),
        ({"documents": [{"text": "x" * 2**20}]}, "documents: expected at most 1048576 bytes of JSON (CHAT_TEMPLATE_KW"),
        (
            {"documents": [{"text": "x"}], "chat_template_kwargs": {"documents": []}},
            "documents: expected once, got it in chat_template_kwargs as well",
        ),
    ],
)
def test_what_is_wrong_with_them_is_named(model: Model, parameters: dict[str, Any], message: str) -> None:
    assert refusal(model.submit("one", parameters)).startswith(message)


def test_rows_of_different_lengths_are_filled_up() -> None:
    from tests.support.fakes import pb_utils
    from vllm_custom.triton.responses import ResponseBuilder

    builder = ResponseBuilder(pb_utils, frozenset({"output_ids"}), batched=True)
    rows = [{"output_ids": np.array([[1, 2]], np.int32)}, {"output_ids": np.array([[3]], np.int32)}]
    (tensor,) = builder.outputs(rows).output_tensors()  # type: ignore[arg-type]
    assert tensor.as_numpy().tolist() == [[[1, 2]], [[3, -1]]]
