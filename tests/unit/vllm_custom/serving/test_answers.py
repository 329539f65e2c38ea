"""Reasoning and tool calls of native requests, through the whole service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fake_answers import FakeReading
from tests.support.fake_engine import FakeEngine
from tests.support.recording_engine import Recording, outputs, refusal
from tests.support.service_harness import Model
from vllm_custom.engine.answers import ToolRequest
from vllm_custom.handlers.answers import AnswerTaker
from vllm_custom.responses import ResponseDelta

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "hear"}}
WORDS = "well </think> first call:look then"
MESSAGES = json.dumps([{"role": "user", "content": WORDS}])
TOKENS = len(WORDS.split())


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
def model(engine: Recording) -> Iterator[Model]:
    with Model(engine) as model:
        yield model
        model.settle()


def texts(sender: Any, name: str) -> list[str]:
    return [value.decode() for array in outputs(sender, name) for value in array]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sent", [[TOOL], json.dumps([TOOL])])
def test_tool_calls_and_reasoning_are_outputs(model: Model, engine: Recording, stream: bool, sent: Any) -> None:
    given = {"max_tokens": TOKENS, "tools": sent}
    sender = model.submit(None, given, messages=MESSAGES, stream=stream, return_reasoning=True).wait()
    assert "".join(texts(sender, "text_output")) == " first then"
    assert "".join(texts(sender, "reasoning")) == " well"
    calls = [call for text in texts(sender, "tool_calls") for call in json.loads(text)]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "look")]
    assert engine.template_kwargs[0]["tools"] == [TOOL]
    assert engine.options[0].reasoning == {"reasoning_ended": False}


def test_reasoning_alone(model: Model) -> None:
    sender = model.submit(None, {"max_tokens": TOKENS}, messages=MESSAGES, return_reasoning=True).wait()
    assert texts(sender, "text_output") == [" first call:look then"]
    assert texts(sender, "reasoning") == [" well"]
    assert texts(sender, "tool_calls") == []


def test_nobody_asks_and_the_text_stays_whole(model: Model, engine: Recording) -> None:
    sender = model.submit(None, {"max_tokens": TOKENS}, messages=MESSAGES).wait()
    assert texts(sender, "text_output") == [f" {WORDS}"]
    assert engine.options[0].reasoning is None
    assert "tools" not in engine.template_kwargs[0]


def test_tools_that_are_only_shown(model: Model, engine: Recording) -> None:
    given = {"max_tokens": TOKENS, "tools": [TOOL], "tool_choice": "none"}
    sender = model.submit(None, given, messages=MESSAGES).wait()
    assert texts(sender, "text_output") == [" first call:look then"]
    assert texts(sender, "tool_calls") == ["[]"]
    assert engine.template_kwargs[0]["tools"] == [TOOL]


def test_several_sequences_are_read_apart(model: Model) -> None:
    given = {"max_tokens": TOKENS, "tools": [TOOL], "n": 2}
    sender = model.submit(None, given, messages=MESSAGES, stream=True).wait()
    assert [len(array) for array in outputs(sender, "tool_calls")] == [2] * len(outputs(sender, "tool_calls"))
    for place in (0, 1):
        assert "".join(array[place].decode() for array in outputs(sender, "text_output")) == " first then"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tools": []}, "tools: expected at least one tool, got []"),
        ({"tools": ["look"]}, "tools: expected a valid value"),
        ({"tools": "{"}, "tools: expected a JSON value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type: expected function, got 'web_search'"),
        (
            {"tools": [TOOL, {"function": "x"}]},
            "tools[1].function: expected an object with name and parameters, got 'x'",
        ),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name: expected a name, got ''"),
        ({"tools": [{"function": {"name": "a", "parameters": []}}]}, None),
        (
            {"tools": [{"function": {"name": "a", "parameters": [1]}}]},
            "tools[0].function.parameters: expected a JSON sch",
        ),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice: expected one of none, auto, required, or {"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function"}},
            "tool_choice: expected one of none, auto, required, or {",
        ),
        (
            {"tools": [TOOL, OTHER], "tool_choice": json.dumps({"function": {"name": "smell"}})},
            "tool_choice.function.name: expected one of tools: hear, look, got 'smell'",
        ),
        ({"tool_choice": "auto"}, "tool_choice: requires tools"),
        ({"tools": [TOOL] * 1025}, "tools: expected at most 1024 tools (MAX_TOOLS of this model), got 1025"),
        (
            {"tools": [{"function": {"name": "a", "description": "x" * 2**20}}]},
            "tools: expected at most 1048576 bytes of JSON (CHAT_TEMPLATE_KWARGS_MAX_BYTES of this model)",
        ),
        (
            {"tools": [TOOL], "chat_template_kwargs": {"tools": [TOOL]}},
            "tools: expected once, got it in chat_template_kw",
        ),
    ],
)
def test_tools_that_are_none_are_refused_by_name(model: Model, parameters: Any, message: str | None) -> None:
    sender = model.submit(None, parameters, messages=MESSAGES)
    if message is None:
        assert sender.wait().error is None
    else:
        assert refusal(sender).startswith(message)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"parameters": {"tools": [TOOL]}},
            "tools: requires the chat template (messages, or apply_chat_template: true)",
        ),
        ({"return_reasoning": True}, "return_reasoning: requires the chat template (messages, or apply_chat_template"),
    ],
)
def test_a_prompt_that_is_no_chat_has_neither(model: Model, asked: Any, message: str) -> None:
    assert refusal(model.submit("one", **asked)).startswith(message)


def test_a_model_without_parsers_says_so() -> None:
    class Without(FakeEngine):
        def answer_parsers(self, arguments: Mapping[str, Any]) -> Any:
            return SimpleNamespace(reasoning=False, tool_calls=False, begin=lambda *_: FakeReading(ToolRequest(), None))

    with Model(Without()) as model:
        message = refusal(model.submit(None, {"tools": [TOOL]}, messages=MESSAGES))
        assert message.startswith("tools: this model has no parser for tool calls (TOOL_CALL_PARSER, with ENABLE_AUTO")
        message = refusal(model.submit(None, messages=MESSAGES, return_reasoning=True))
        assert message == "return_reasoning: this model has no REASONING_PARSER"
        shown = model.submit(None, {"tools": [TOOL], "tool_choice": "none"}, messages=MESSAGES).wait()
        assert shown.error is None


@pytest.mark.parametrize(
    ("choice", "reason", "expected"),
    [("auto", "stop", "tool_calls"), ("required", "stop", "tool_calls"), ("auto", "length", "length")],
)
def test_why_a_sequence_with_a_call_ended(choice: str, reason: str, expected: str) -> None:
    assert ended(choice, reason) == expected


def test_a_call_of_the_tool_that_was_named_is_no_reason() -> None:
    """As with OpenAI and vLLM."""
    assert ended({"type": "function", "function": {"name": "look"}}, "stop") == "stop"


def ended(choice: Any, reason: str) -> str | None:
    call: Any = SimpleNamespace(control=SimpleNamespace(tool_choice=choice))
    taker = AnswerTaker(FakeReading(ToolRequest([TOOL], choice), None), call, 1)
    completion = SimpleNamespace(
        index=0,
        text=WORDS,
        token_ids=[1],
        finish_reason=reason,
        stop_reason=None,
        logprobs=None,
        cumulative_logprob=None,
    )
    output = SimpleNamespace(prompt_token_ids=[1], outputs=[completion], prompt_logprobs=None)
    delta = ResponseDelta.from_output(output, 1)
    taker.whole(output, delta)
    return delta.sequences[0].finish_reason
