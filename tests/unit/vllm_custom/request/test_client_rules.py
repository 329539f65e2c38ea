"""What a client may set, natively and in the body of a call of the OpenAI API, and how much of it."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fakes
from vllm_custom.contract.settings import Settings
from vllm_custom.contract.specs import Trust
from vllm_custom.contract.table import VLLM_FIELDS
from vllm_custom.engine.vllm import prompts
from vllm_custom.errors import ConfigError, InvalidRequestError
from vllm_custom.openai.envelope import OpenAICall, parse_openai_request
from vllm_custom.openai.rules import check_body
from vllm_custom.openai.service import application_arguments
from vllm_custom.request import ClientRules, InferenceCall, ProcessorBounds, parse_embedding_request, parse_request
from vllm_custom.request.field_rules import check_fields, sequences
from vllm_custom.request.parameters import parse_parameters
from vllm_custom.request.processor_kwargs import check_processor_kwargs
from vllm_custom.request.template_kwargs import check_template_kwargs

NAMES = [spec.name for spec in VLLM_FIELDS]
BOUNDS = ProcessorBounds(min_pixels=3136, max_pixels=1_003_520)
RULES = ClientRules(processor=BOUNDS)
TRUSTING = ClientRules(trust_chat_template=True, trust_mm_kwargs=True, processor=BOUNDS)


def settings(**parameters: str) -> Settings:
    entries = {key: {"string_value": value} for key, value in parameters.items()}
    return Settings.from_model_config({"name": "model", "parameters": entries})


def native(rules: ClientRules = RULES, **parameters: Any) -> Any:
    return parse_parameters(json.dumps(parameters), None, NAMES, rules=rules)


def call(rules: ClientRules = RULES, parameters: str = "{}", **tensors: Any) -> InferenceCall:
    arrays = {name: np.array(value if isinstance(value, list) else [value], object) for name, value in tensors.items()}
    return parse_request(arrays, parameters, NAMES, rules=rules)


def openai(body: Any, rules: ClientRules = RULES, path: str = "/v1/chat/completions") -> OpenAICall:
    text = json.dumps({"path": path, "body": body})
    return parse_openai_request({"openai_request": np.array([text.encode()], object)}, "{}", rules)


def refused(function: Any) -> str:
    with pytest.raises(InvalidRequestError) as error:
        function()
    assert len(str(error.value)) < 2000  # the known parameters are listed
    return str(error.value)


# The rules of a model


def test_rules_are_made_of_the_settings() -> None:
    made = ClientRules.of(
        settings(MAX_N="3", TRUST_REQUEST_MM_KWARGS="true", TRUSTED_PARAMETERS="extra_args, watermarking"),
        processor=BOUNDS,
        max_prompt_chars=7,
    )
    assert (made.limits["MAX_N"], made.trust_mm_kwargs, made.trust_chat_template) == (3, True, False)
    assert (made.trusted, made.processor, made.max_prompt_chars) == ({"extra_args", "watermarking"}, BOUNDS, 7)


def test_without_settings_the_defaults_of_the_table_hold() -> None:
    assert ClientRules.of(settings()) == ClientRules()


# chat_template_kwargs

VARIABLES: list[dict[str, Any]] = [
    {},
    {"enable_thinking": False},
    {"thinking": True, "reasoning_effort": "low", "custom-name": [1, {"a": None}]},
    {"documents": [{"title": "a", "text": "b"}]},
    {"documents": None},
]
ARGUMENTS: list[dict[str, Any]] = [
    {"tokenize": True},
    {"padding": "max_length", "max_length": 2**40},
    {"max_length": 2**62},
    {"truncation": True},
    {"return_tensors": "pt"},
    {"return_dict": True},
    {"return_assistant_tokens_mask": True},
    {"tokenizer_kwargs": {"padding": True}},
    {"processor_kwargs": {}},
    {"conversation": []},
    {"messages": []},
    {"model_config": 1},
    {"tokenizer": 1},
    {"self": 1},
    {"add_generation_prompt": False},
    {"continue_final_message": True},
]


@pytest.mark.parametrize("kwargs", [*VARIABLES, {"tools": [{"type": "function"}]}])
def test_variables_of_a_template_are_free(kwargs: dict[str, Any]) -> None:
    assert native(chat_template_kwargs=kwargs)[1].chat_template_kwargs == kwargs
    assert native(chat_template_kwargs=json.dumps(kwargs))[1].chat_template_kwargs == kwargs


@pytest.mark.parametrize("kwargs", VARIABLES)
def test_variables_of_a_template_are_free_in_a_body(kwargs: dict[str, Any]) -> None:
    assert openai({"chat_template_kwargs": kwargs}).body == {"chat_template_kwargs": kwargs}


@pytest.mark.parametrize("kwargs", ARGUMENTS)
@pytest.mark.parametrize("rules", [RULES, TRUSTING], ids=["untrusted", "trusted"])
def test_arguments_of_the_tokenizer_are_refused_even_from_the_trusted(
    kwargs: dict[str, Any], rules: ClientRules
) -> None:
    """A length of 2**40 aborted the process, and of 2**62 panicked in Rust."""
    told = refused(lambda: native(rules, chat_template_kwargs=kwargs))
    assert told.startswith("chat_template_kwargs")
    assert next(iter(kwargs)) in told
    assert refused(lambda: openai({"chat_template_kwargs": kwargs}, rules)) == told


def test_a_clients_template_needs_trust() -> None:
    """A client's own program ran in the server."""
    kwargs = {"chat_template": "{{ 7*7 }}"}
    told = refused(lambda: native(chat_template_kwargs=kwargs))
    assert told.startswith("chat_template_kwargs.chat_template: ")
    assert "TRUST_REQUEST_CHAT_TEMPLATE" in told
    assert refused(lambda: openai({"chat_template_kwargs": kwargs})) == told
    assert refused(lambda: openai({"chat_template": "{{ 7*7 }}"})) == told.removeprefix("chat_template_kwargs.")
    assert native(TRUSTING, chat_template_kwargs=kwargs)[1].chat_template_kwargs == kwargs
    assert openai({"chat_template": "a", "chat_template_kwargs": kwargs}, TRUSTING).body is not None
    assert openai({"chat_template": None}).body == {"chat_template": None}


def test_a_template_is_text() -> None:
    assert "expected a string" in refused(lambda: native(TRUSTING, chat_template_kwargs={"chat_template": [1]}))


@pytest.mark.parametrize("key", ["tools", "documents"])
def test_data_of_a_template_are_objects(key: str) -> None:
    assert "a list of objects" in refused(lambda: native(chat_template_kwargs={key: "a"}))


def test_tools_have_a_place_of_their_own_in_a_body() -> None:
    assert "tools is a separate request parameter" in refused(lambda: openai({"chat_template_kwargs": {"tools": []}}))


def test_the_size_of_variables_is_bounded() -> None:
    told = refused(lambda: native(chat_template_kwargs={"a": "x" * 2**20}))
    assert "CHAT_TEMPLATE_KWARGS_MAX_BYTES" in told


def test_the_depth_of_variables_is_bounded() -> None:
    deep = json.dumps({"a": json.loads("[" * 200 + "]" * 200)})
    assert "REQUEST_MAX_JSON_DEPTH" in refused(lambda: native(chat_template_kwargs=deep))


def test_a_name_of_any_length_is_not_repeated() -> None:
    for sent in (
        {"x" * 10**6: 1},
        {"chat_template_kwargs": {"x" * 10**6: 1}},
        {"mm_processor_kwargs": {"x" * 10**6: 1}},
    ):
        refused(lambda sent=sent: native(**sent))


def test_names_are_bounded() -> None:
    """A name of 50 MB was a line of 50 MB in the log."""
    assert refused(lambda: native(lora_name="x" * 10**6)).startswith("lora_name: ")
    assert refused(lambda: openai({"model": "x" * 10**6})).startswith("model: ")
    assert refused(lambda: openai({"request_id": "x" * 257})).startswith("request_id: ")
    assert refused(lambda: openai({"session_id": "x" * 257})).startswith("session_id: ")
    assert native(traceparent="x" * 10**6)[1].trace_headers is None


@pytest.mark.usefixtures("vllm")
@pytest.mark.filterwarnings("ignore")  # of torch, when it is imported
def test_every_argument_of_what_applies_a_template_is_known() -> None:
    """The list in the rules is for whoever asks them without vLLM; the signatures of the installed one are added."""
    names = prompts.template_arguments()
    assert {"tokenize", "padding", "max_length", "tokenizer_kwargs", "chat_template", "model_config"} <= names
    for name in names - {"tools", "documents", "chat_template", "kwargs"}:
        refused(lambda name=name: check_template_kwargs({name: 1}, TRUSTING))
    other = ClientRules(template_arguments=frozenset({"new_argument"}))
    assert "new_argument" in refused(lambda: check_template_kwargs({"new_argument": 1}, other))


# mm_processor_kwargs


@pytest.mark.parametrize("kwargs", [{}, {"max_pixels": 3136}, {"max_pixels": 1_003_520}])
def test_fewer_pixels_are_free(kwargs: dict[str, Any]) -> None:
    assert native(mm_processor_kwargs=kwargs)[1].mm_processor_kwargs == kwargs
    assert openai({"mm_processor_kwargs": kwargs}).body == {"mm_processor_kwargs": kwargs}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"patch_size": 7},
        {"min_pixels": 10**8, "max_pixels": 10**8},
        {"min_pixels": "many"},
        {"size": {"longest_edge": 3136}},
        {"images_kwargs": {"max_pixels": 3136}},
        {"max_pixels": 3135},
        {"max_pixels": 1_003_521},
        {"max_pixels": True},
        {"max_pixels": "4000"},
        {"max_pixels": 4000.0},
        {"max_pixels": None},
        {"max_pixels": -1},
        {"num_frames": 4},
        {"fps": 1},
        {"x" * 1000: 1},
    ],
)
def test_other_arguments_of_the_processor_need_trust(kwargs: dict[str, Any]) -> None:
    """{"patch_size": 7} ended the engine for everybody."""
    told = refused(lambda: native(mm_processor_kwargs=kwargs))
    assert told.startswith("mm_processor_kwargs")
    assert refused(lambda: openai({"mm_processor_kwargs": kwargs})) == told
    assert native(TRUSTING, mm_processor_kwargs=kwargs)[1].mm_processor_kwargs == kwargs


def test_pixels_of_a_model_that_does_not_say() -> None:
    unknown = ClientRules()
    check_processor_kwargs({"max_pixels": unknown.limits["IMAGE_MAX_PIXELS"]}, unknown)
    refused(lambda: check_processor_kwargs({"max_pixels": unknown.limits["IMAGE_MAX_PIXELS"] + 1}, unknown))
    refused(lambda: check_processor_kwargs({"max_pixels": 0}, unknown))


# Fields of SamplingParams

TOO_MUCH: list[tuple[str, Any, str]] = [
    ("n", 129, "MAX_N"),
    ("n", "129", "MAX_N"),
    ("n", "1_000", "MAX_N"),
    ("n", " 129.0 ", "MAX_N"),
    ("n", 16384.0, "MAX_N"),
    ("best_of", 129, "MAX_N"),
    ("stop", [f"z{i}" for i in range(65)], "MAX_STOP_STRINGS"),
    ("stop", ["a" * 1025], "MAX_STOP_CHARACTERS"),
    ("stop", "a" * 1025, "MAX_STOP_CHARACTERS"),
    ("bad_words", ["no"] * 129, "MAX_BAD_WORDS"),
    ("bad_words", ["a" * 257], "MAX_BAD_WORD_CHARACTERS"),
    ("logit_bias", {str(i): 1 for i in range(1025)}, "MAX_LOGIT_BIAS"),
    ("stop_token_ids", list(range(16_385)), "MAX_TOKEN_IDS"),
    ("allowed_token_ids", list(range(16_385)), "MAX_TOKEN_IDS"),
    ("logprob_token_ids", list(range(16_385)), "MAX_TOKEN_IDS"),
    ("repetition_detection", {"max_pattern_size": 257, "min_count": 2}, "MAX_REPETITION_PATTERN"),
]
NOT_THEIRS = [
    ("extra_args", {"kv_transfer_params": {}}),
    ("skip_reading_prefix_cache", True),
    ("watermarking", False),
    ("returned_token_ids", [10**6]),
    ("trace_decode_token_ids", [1]),
    ("routed_experts_prompt_start", 1),
]


@pytest.mark.parametrize(("name", "value", "limit"), TOO_MUCH)
def test_more_than_a_limit_is_refused(name: str, value: Any, limit: str) -> None:
    """300,000 stop strings were searched for after each token, on everybody's event loop."""
    told = refused(lambda: native(**{name: value}))
    assert told.startswith(name)
    assert limit in told
    assert limit in refused(lambda: openai({name: value}))
    if isinstance(value, (list, dict)):
        assert refused(lambda: native(**{name: json.dumps(value)})) == told


def test_every_limit_of_a_field_is_kept() -> None:
    """One depends on the prompt's tokens, and is compared later (tests/unit/vllm_custom/sampling)."""
    declared = {(row.name, limit) for row in VLLM_FIELDS if row.trust is Trust.BOUNDED for limit in row.by}
    assert declared - {(name, limit) for name, _, limit in TOO_MUCH} == {("prompt_logprobs", "MAX_PROMPT_LOGPROBS")}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 128),
        ("stop", ["a"] * 64),
        ("stop", "[1"),
        ("stop", "[1]"),
        ("logit_bias", {"5": 1}),
        ("temperature", "0.5"),
        ("max_tokens", "null"),
        ("repetition_detection", {"max_pattern_size": 8, "min_count": 3}),
        ("stop", 5),
        ("instruction", "x" * 5000),
    ],
)
def test_ordinary_values_pass_as_they_were_sent(name: str, value: Any) -> None:
    assert native(**{name: value})[0] == {name: value}


def test_lists_in_strings_are_read_once() -> None:
    sent = {"stop": '["a", "b"]', "logit_bias": ' {"5": 1}', "stop_token_ids": "[1]"}
    assert native(**sent)[0] == {"stop": ["a", "b"], "logit_bias": {"5": 1}, "stop_token_ids": [1]}


@pytest.mark.parametrize(("name", "value"), NOT_THEIRS)
def test_operators_fields_need_trust(name: str, value: Any) -> None:
    told = refused(lambda: native(**{name: value}))
    assert told.startswith(name)
    assert "TRUSTED_PARAMETERS" in told
    assert refused(lambda: openai({name: value})) == told
    assert native(ClientRules(trusted=frozenset({name})), **{name: value})[0] == {name: value}
    assert native(**{name: None})[0] == {name: None}


@pytest.mark.parametrize("name", ["vllm_xargs", "kv_transfer_params", "ec_transfer_params"])
def test_extra_arguments_by_openais_names_need_trust(name: str) -> None:
    told = refused(lambda: openai({name: {"a": 1}}))
    assert told.startswith(f"{name}: ")
    assert "extra_args" in told
    assert openai({name: {"a": 1}}, ClientRules(trusted=frozenset({"extra_args"}))).body == {name: {"a": 1}}


def test_fields_of_a_newer_vllm_are_the_operators() -> None:
    with pytest.raises(InvalidRequestError, match="TRUSTED_PARAMETERS"):
        check_fields({"invented": 1}, RULES)
    assert check_fields({"invented": 1}, ClientRules(trusted=frozenset({"invented"}))) == {"invented": 1}


def test_fields_without_a_result_are_refused_in_every_form() -> None:
    for value in ([[1]], "[[1]]"):
        assert "is not offered" in refused(lambda value=value: native(prompt_logprob_token_ids=value))


# How many sequences


@pytest.mark.parametrize(
    ("sent", "number"), [({}, 1), ({"n": 5}, 5), ({"n": "5"}, 5), ({"n": None}, 1), ({"n": -3}, 1)]
)
def test_sequences_of_a_call(sent: dict[str, Any], number: int) -> None:
    assert sequences(call(parameters=json.dumps(sent), text_input=b"hi").sampling) == number


# Text

SHORT = ClientRules(max_prompt_chars=10)


@pytest.mark.parametrize(
    "make",
    [
        lambda text: call(SHORT, text_input=text.encode()),
        lambda text: call(SHORT, messages=json.dumps([{"role": "user", "content": text}]).encode()),
        lambda text: call(
            SHORT,
            messages=json.dumps(
                [{"role": "user", "content": text[:5]}, {"content": [{"type": "text", "text": text[5:]}]}]
            ).encode(),
        ),
        lambda text: parse_embedding_request(
            {"embedding_request": np.array([json.dumps({"input": text})], object)}, SHORT
        ),
        lambda text: call(SHORT, queries=b"q", documents=[b"a", text.encode()]),
        lambda text: call(SHORT, queries=text.encode(), documents=[b"a"]),
        lambda text: openai({"messages": [{"role": "user", "content": text}]}, SHORT),
    ],
    ids=["text_input", "messages", "summed", "embedding_request", "documents", "queries", "body"],
)
def test_text_that_cannot_fit_is_refused_before_it_is_tokenised(make: Any) -> None:
    """6 MB of chat text took 6 s, since it was tokenised before its length was looked at."""
    make("x" * 10)
    assert "at most 10 characters" in refused(lambda: make("x" * 11))


def test_text_that_is_cut_may_be_longer() -> None:
    cut = '{"truncate_prompt_tokens": 5}'
    call(SHORT, cut, queries=b"q", documents=["x" * 160])
    refused(lambda: call(SHORT, cut, queries=b"q", documents=["x" * 161]))
    openai({"messages": [{"content": "x" * 160}], "truncate_prompt_tokens": 5}, SHORT)
    openai({"documents": ["x" * 160], "max_tokens_per_doc": 5}, SHORT)


def test_text_that_is_cut_is_bounded_all_the_same() -> None:
    """All of it is tokenised before it is cut: 16 MB took 4 GB."""
    body = {"prompt": "x" * 120, "truncate_prompt_tokens": 5}
    few = ClientRules(limits={**RULES.limits, "TOKENIZE_MAX_CHARACTERS": 100}, max_prompt_chars=10)
    openai(body, SHORT)
    assert "at most 100 characters" in refused(lambda: openai(body, few))
    openai(body, ClientRules(limits=few.limits, max_prompt_chars=120))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": [{"function": {"arguments": "x" * 11}}]},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": {"x" * 11: 1}}}]},
        {"role": "assistant", "content": "a", "reasoning": "x" * 11},
        {"role": "tool", "content": [{"type": "text", "text": "x" * 6}, "x" * 5]},
        {"type": "function_call_output", "output": [{"type": "input_text", "text": "x" * 11}]},
        {"type": "function_call", "arguments": "x" * 11},
        {"type": "reasoning", "summary": [{"text": "x" * 11}]},
    ],
)
def test_all_text_of_a_message_counts(message: dict[str, Any]) -> None:
    """Arguments of a tool call, 100 MB of them, were parsed on the event loop and written by the template."""
    for make in (
        lambda: call(SHORT, messages=json.dumps([message]).encode()),
        lambda: openai({"messages": [message]}, SHORT),
        lambda: openai({"input": [message]}, SHORT, "/v1/responses"),
        lambda: openai({"messages": [[message]]}, SHORT),
    ):
        assert "at most 10 characters" in refused(make)


def test_each_conversation_has_a_context_of_its_own() -> None:
    openai({"messages": [[{"role": "user", "content": "x" * 9}], [{"role": "user", "content": "x" * 9}]]}, SHORT)


def test_media_are_no_text_of_a_message() -> None:
    url = {"url": "data:image/png;base64," + "A" * 100}
    parts = [{"type": "image_url", "image_url": url}, {"type": "input_image", "image_url": url["url"]}]
    openai({"messages": [{"role": "user", "content": parts}]}, SHORT)
    openai({"input": [{"type": "function_call_output", "output": parts}]}, SHORT, "/v1/responses")


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x" * 11},
        {"prompt": ["x", "x" * 11]},
        {"input": "x" * 11},
        {"query": "x" * 11},
        {"documents": ["x" * 11]},
        {"data_1": {"content": [{"type": "text", "text": "x" * 11}]}},
        {"instructions": "x" * 11},
        {"tools": [{"type": "function", "function": {"description": "x" * 11}}]},
    ],
)
def test_other_text_of_a_body_is_bounded_too(body: dict[str, Any]) -> None:
    assert "at most 10 characters" in refused(lambda: openai(body, SHORT))
    openai(body, RULES)


def test_tokenize_has_its_own_limit() -> None:
    openai({"prompt": "x" * 11}, SHORT, "/tokenize")


def test_messages_and_parts_are_counted() -> None:
    few = ClientRules(limits={**RULES.limits, "MAX_MESSAGE_PARTS": 3})
    part = {"type": "text", "text": "a"}
    for messages, fits in (
        ([{"role": "user", "content": [part] * 2}], True),
        ([{"role": "user", "content": [part] * 3}], False),
        ([{"role": "assistant", "content": "a", "tool_calls": [{}] * 2}], True),
        ([{"role": "assistant", "content": "a", "tool_calls": [{}] * 3}], False),
    ):
        for make in (
            lambda messages=messages: call(few, messages=json.dumps(messages).encode()),
            lambda messages=messages: openai({"messages": messages}, few),
        ):
            make() if fits else refused(make)


def test_parts_are_counted_whatever_comes_first() -> None:
    """250,000 parts behind a first message that is none held the event loop for half a second."""
    few = ClientRules(limits={**RULES.limits, "MAX_MESSAGE_PARTS": 3})
    parts = {"role": "user", "content": [{}] * 3}
    for body in (
        {"messages": ["a", parts]},
        {"input": [1, parts]},
        {"messages": [[parts]]},
        {"input": [{"type": "function_call_output", "output": [{}] * 3}]},
        {"documents": [{"content": [{}] * 4}]},
    ):
        assert "MAX_MESSAGE_PARTS" in refused(lambda body=body: openai(body, few))


@pytest.mark.parametrize("kind", ["x" * 257, ["text"], {"a": 1}, 5])
def test_types_of_parts_are_names(kind: Any) -> None:
    """vLLM keeps each unknown one of a system message for its log: 128 of them, 16 MB each."""
    for key in ("content", "output"):
        message = {"role": "system", key: [{"type": kind, "text": "a"}]}
        told = refused(lambda message=message: openai({"messages": [message]}))
        assert told.startswith(f"messages: type of a part of {key}: expected a name of at most 256 characters, got ")
    openai({"messages": [{"role": "system", "content": [{"type": "x" * 256}, {"type": None}, "a"]}]})


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ("[" * 101 + "]" * 101, False),
        ("[" * 100_000, False),
        ('{"a":' * 99_000, False),
        ("[" * 100 + "]" * 100, True),
        ("[]," * 200, True),
    ],
)
def test_arguments_of_tool_calls_are_no_deeper_than_other_json(arguments: str, fits: bool) -> None:
    """They are JSON in a text; vLLM answered 500 where they were too deep to read."""
    call_ = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    for make in (
        lambda: call(messages=json.dumps([{"role": "assistant", "tool_calls": [call_]}]).encode()),
        lambda: openai({"messages": [{"role": "assistant", "tool_calls": [call_]}]}),
        lambda: openai({"input": [{"type": "function_call", "arguments": arguments}]}, path="/v1/responses"),
    ):
        if fits:
            make()
        else:
            assert "at most 100 levels" in refused(make)


def test_token_ids_are_no_parts() -> None:
    few = ClientRules(limits={**RULES.limits, "MAX_MESSAGE_PARTS": 3})
    openai({"input": [[1, 2, 3], [4, 5, 6]]}, few, "/v1/embeddings")
    openai({"input": [1, 2, 3, 4]}, few, "/v1/embeddings")


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"title": "x" * 50}}}},
        {"structured_outputs": {"regex": "x" * 50}},
        {"text": {"format": {"schema": {"x" * 50: {}}}}},
        {"guided_json": {"title": "x" * 50}},
    ],
)
def test_constraints_are_bounded_before_they_are_written_as_json(body: dict[str, Any]) -> None:
    few = ClientRules(limits={**RULES.limits, "STRUCTURED_MAX_BYTES": 10})
    assert "STRUCTURED_MAX_BYTES" in refused(lambda: openai(body, few))
    openai(body, RULES)


def test_a_long_body_is_refused_before_it_is_written_as_json() -> None:
    few = ClientRules(limits={**RULES.limits, "OPENAI_MAX_BODY_BYTES": 100})
    assert "OPENAI_MAX_BODY_BYTES" in refused(lambda: openai({"prompt": "x" * 101}, few))
    assert "OPENAI_MAX_BODY_BYTES" in refused(lambda: openai(json.dumps({"unknown": {"x" * 101: None}}), few))
    image = {"type": "image_url", "image_url": {"url": "data:," + "x" * 200}}
    openai({"messages": [{"role": "user", "content": [image]}]}, few)


def test_a_long_text_that_is_no_json_is_read_once() -> None:
    few = ClientRules(limits={**RULES.limits, "OPENAI_MAX_BODY_BYTES": 100})
    assert "expected JSON" in refused(lambda: openai("x" * 101, few))
    assert openai("x" * 100, few).body == "x" * 100


def test_items_are_counted_before_they_are_copied() -> None:
    assert "MEDIA_MAX_ITEMS" in refused(lambda: call(text_input=b"a", image=[b"x"] * 129))
    assert "SCORE_MAX_DOCUMENTS" in refused(lambda: call(queries=b"a", documents=[b"x"] * 1001))
    assert "SCORE_MAX_DOCUMENTS" in refused(lambda: openai({"query": "a", "documents": ["x"] * 1001}))
    assert "SCORE_MAX_DOCUMENTS" in refused(lambda: openai({"documents": {"content": [{}] * 1001}}))
    assert "MAX_PROMPTS" in refused(lambda: openai({"prompt": ["a"] * 2049}))
    assert "MAX_TOOLS" in refused(lambda: openai({"messages": [], "tools": [{}] * 1025}))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "x" * 11}),
        ("/tokenize", {"messages": [{"content": "x" * 6}, {"content": [{"type": "text", "text": "x" * 5}]}]}),
        ("/detokenize", {"tokens": [1] * 11}),
        ("/tokenize", {"prompt": "x" * 3, "return_token_strs": True}),
    ],
)
def test_what_is_tokenised_without_a_context_is_bounded(path: str, body: dict[str, Any]) -> None:
    """10 MB for /tokenize kept the only tokenizer for 35 s."""
    few = ClientRules(limits={**RULES.limits, "TOKENIZE_MAX_CHARACTERS": 10})
    assert "at most 10 characters" in refused(lambda: openai(body, few, path))
    openai(body, RULES, path)
    openai(body, few)


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: call(text_input=b"a", parameters=json.dumps({"lora_name": bad})),
        lambda bad: call(text_input=b"a", sampling_parameters=json.dumps({"stop": [bad]})),
        lambda bad: call(text_input=b"a", sampling_parameters=json.dumps({"guided_choice": json.dumps([bad])})),
        lambda bad: call(text_input=b"a", sampling_parameters=json.dumps({"media_io_kwargs": {"video": {bad: 1}}})),
        lambda bad: call(text_input=b"a", sampling_parameters=json.dumps({"guided_json": json.dumps({bad: 1})})),
        lambda bad: call(messages=json.dumps([{"role": "user", "content": bad}])),
        lambda bad: call(messages=json.dumps([{"role": "user", bad: 1}])),
        lambda bad: call(text_input=bad),
        lambda bad: openai({"messages": [{"role": "user", "content": bad}]}),
        lambda bad: openai(json.dumps({"messages": [{"role": "user", "content": bad}]})),
    ],
    ids=[
        "parameter",
        "list",
        "list in text",
        "key",
        "schema in text",
        "message",
        "key of a message",
        "text",
        "body",
        "body in text",
    ],
)
def test_lone_surrogates_are_refused_wherever_they_stand(make: Any) -> None:
    """A lone surrogate in an error text stopped the answer: the logger could not write it."""
    refused(lambda: make("a\ud800b")).encode()


# Bodies


def test_json_in_a_string_is_judged_as_well() -> None:
    assert openai('{"messages": []}').body == {"messages": []}
    refused(lambda: openai('{"chat_template": "{{ 7*7 }}"}'))
    assert openai("{").body == "{", "vLLM says what is wrong with it"


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"chat_template": "\\ud800"}', "[" * 100_000])
def test_what_vllm_would_read_and_we_do_not_is_refused(text: str) -> None:
    refused(lambda: openai(text))


def test_json_in_a_string_has_the_same_limits() -> None:
    """Escaped commas are none in the text around them."""
    inner = '{"a": [' + "1\\u002c" * 600_000 + "1]}"
    tensor = np.array([f'{{"path": "/v1/completions", "body": {json.dumps(inner)}}}'.replace("\\\\u", "\\u")], object)
    told = refused(lambda: parse_openai_request({"openai_request": tensor}, "{}", RULES))
    assert told.startswith("openai_request.body: ")
    assert "REQUEST_MAX_JSON_VALUES" in told


def test_utf_16_in_a_string_is_refused() -> None:
    """Zero bytes make vLLM's reader take the body for UTF-16."""
    refused(lambda: openai('{"a":1}'.encode("utf-16-le").decode("utf-8")))


@pytest.mark.parametrize("name", ["chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs"])
def test_objects_are_objects(name: str) -> None:
    for value in ([], "{}", [["tokenize", True]], 5):
        assert refused(lambda value=value: openai({name: value})).startswith(f"{name}: expected an object")
    assert openai({name: None}).body == {name: None}


def test_frames_of_videos_are_free_in_a_body_and_nothing_else_of_their_reader() -> None:
    body = {"media_io_kwargs": {"video": {"num_frames": 4, "fps": 1}}}
    assert openai(body).body == body
    for bad in ({"image": {"mode": "RGBA"}}, {"video": {"backend": "x"}}):
        refused(lambda bad=bad: openai({"media_io_kwargs": bad}, TRUSTING))


# vLLM's application


@pytest.mark.parametrize("text", ["true", "false"])
def test_trust_reaches_the_application(text: str) -> None:
    made = application_arguments(settings(TRUST_REQUEST_CHAT_TEMPLATE=text), None)
    assert made["trust_request_chat_template"] is (text == "true")
    same = settings(
        TRUST_REQUEST_CHAT_TEMPLATE=text, OPENAI_ARGS=json.dumps({"trust_request_chat_template": text == "true"})
    )
    assert application_arguments(same, None) == made


@pytest.mark.parametrize("name", ["trust_request_chat_template", "trust_request_mm_kwargs"])
def test_arguments_that_contradict_the_parameters_stop_the_load(name: str) -> None:
    with pytest.raises(ConfigError, match=f"OPENAI_ARGS: {name} contradicts the parameter {name.upper()}"):
        application_arguments(settings(OPENAI_ARGS=json.dumps({name: True})), None)


# Anything

_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.sampled_from(["[", "{}", "[1]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.text(max_size=12) | st.sampled_from(
    [*NAMES, "chat_template", "tokenize", "max_pixels", "size", "messages", "prompt"]
)
_OBJECTS = st.dictionaries(_KEYS, _VALUES, max_size=4)


@pytest.mark.slow
@given(_OBJECTS, st.sampled_from([RULES, TRUSTING, SHORT]))
def test_any_object_passes_or_is_refused_by_our_error(value: dict[str, Any], rules: ClientRules) -> None:
    def encodable(function: Any) -> None:
        _, error = fakes.outcome(function)
        assert error is None or len(str(error).encode()) < 5000

    encodable(lambda: check_template_kwargs(value, rules))
    encodable(lambda: check_processor_kwargs(value, rules))
    encodable(lambda: check_fields(value, rules))
    encodable(lambda: check_body(value, rules))
    encodable(lambda: native(rules, **value))
    encodable(
        lambda: native(rules, **{name: json.dumps(value) for name in ("chat_template_kwargs", "mm_processor_kwargs")})
    )
    encodable(lambda: openai(value, rules))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"stop_sequences": ["a"] * 65}, "stop: expected at most 64 strings (MAX_STOP_STRINGS of this model)"),
        ({"system": "x" * 1001}, "system: expected at most 1000 characters"),
        ({"system": [{"type": "text", "text": "x" * 1001}]}, "system: expected at most 1000 characters"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x" * 1001}]}]},
            "messages: expected at most 1000 characters",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{}] * 4000}]}]},
            "messages: expected at most 4000 messages, parts and tool calls",
        ),
    ],
)
def test_anthropics_names_have_the_same_limits(body: dict[str, Any], message: str) -> None:
    rules = dataclasses.replace(RULES, max_prompt_chars=1000)
    assert refused(lambda: check_body(body, rules, "/v1/messages")).startswith(message)
