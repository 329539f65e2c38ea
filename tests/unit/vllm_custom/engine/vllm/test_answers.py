"""vLLM's parsers, used as its own server uses them: hermes for tool calls, granite for reasoning."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tools.installer.paths import CHECKOUT
from vllm_custom.engine.answers import AnswerParts, ToolRequest
from vllm_custom.engine.vllm.answers import VllmAnswerParsers
from vllm_custom.errors import InvalidRequestError

WEIGHTS = CHECKOUT / "model_repository/shapes_vl/1/weights"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Says it.", "parameters": SCHEMA}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
THOUGHT = "Here is my thought process: it rains. Here is my response: "
MESSAGES = [{"role": "user", "content": "Rain?"}]


HERMES = {"tool_call_parser": "hermes", "enable_auto_tool_choice": True}


def model(reasoning_parser: str) -> Any:
    from transformers import AutoTokenizer

    return SimpleNamespace(
        model_config=SimpleNamespace(model="shapes_vl", hf_config=SimpleNamespace(model_type="qwen2_5_vl")),
        vllm_config=SimpleNamespace(structured_outputs_config=SimpleNamespace(reasoning_parser=reasoning_parser)),
        renderer=SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(WEIGHTS)),
    )


@pytest.fixture(scope="module")
def parsers(vllm: None) -> VllmAnswerParsers:
    return VllmAnswerParsers(model(""), HERMES)


@pytest.fixture(scope="module")
def thinking(vllm: None) -> VllmAnswerParsers:
    return VllmAnswerParsers(model("granite"), HERMES)


def whole(parsers: VllmAnswerParsers, text: str, asked: ToolRequest, constraint: Any = None) -> AnswerParts:
    ids = parsers._llm.renderer.tokenizer.encode(text, add_special_tokens=False)
    return parsers.begin(asked, MESSAGES, {}, constraint).reader().whole(text, ids, [1, 2])


def pieces(parsers: VllmAnswerParsers, text: str, asked: ToolRequest) -> list[AnswerParts]:
    """A token at a time."""
    tokenizer = parsers._llm.renderer.tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False)
    reader = parsers.begin(asked, MESSAGES, {}, None).reader()
    return [
        reader.piece(tokenizer.decode([token]), [token], [1, 2], finished=place == len(ids) - 1)
        for place, token in enumerate(ids)
    ]


def functions(calls: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Name and arguments of each call, whole or in pieces."""
    made: dict[int, list[str]] = {}
    for place, call in enumerate(calls):
        name, arguments = made.setdefault(call.get("index", place), ["", ""])
        function = call.get("function", {})
        made[call.get("index", place)] = [name + function.get("name", ""), arguments + function.get("arguments", "")]
    return [(name, json.loads(arguments)) for name, arguments in made.values()]


def test_a_tool_call_is_taken_out_of_the_text(parsers: VllmAnswerParsers) -> None:
    parts = whole(parsers, f"I look. {CALL}", ToolRequest([TOOL], "auto"))
    assert (parts.text.strip(), parts.reasoning) == ("I look.", "")
    assert functions(parts.tool_calls) == [("weather", {"city": "Rome"})]
    (call,) = parts.tool_calls
    assert call["type"] == "function"
    assert call["id"]


def test_the_pieces_of_a_stream_add_up(parsers: VllmAnswerParsers) -> None:
    found = pieces(parsers, f"I look. {CALL}", ToolRequest([TOOL], "auto"))
    assert "".join(part.text for part in found).strip() == "I look."
    calls = [call for part in found for call in part.tool_calls]
    assert functions(calls) == [("weather", {"city": "Rome"})]
    assert calls[0]["id"]


def test_reasoning_is_told_apart(thinking: VllmAnswerParsers) -> None:
    parts = whole(thinking, f"{THOUGHT}Yes.", ToolRequest())
    assert (parts.reasoning.strip(), parts.text.strip(), parts.tool_calls) == ("it rains.", "Yes.", [])
    found = pieces(thinking, f"{THOUGHT}Yes.", ToolRequest())
    assert "".join(part.reasoning for part in found).strip().startswith("it rains.")
    assert "".join(part.text for part in found).strip() == "Yes."


def test_without_a_choice_of_tools_calls_stay_text(parsers: VllmAnswerParsers) -> None:
    parts = whole(parsers, CALL, ToolRequest([TOOL], "none"))
    assert (parts.text, parts.tool_calls) == (CALL, [])


def test_only_the_first_of_several_calls_counts_where_that_is_asked(parsers: VllmAnswerParsers) -> None:
    several = f"{CALL}\n{CALL}"
    assert len(whole(parsers, several, ToolRequest([TOOL], "auto")).tool_calls) == 2
    single = ToolRequest([TOOL], "auto", parallel=False)
    assert len(whole(parsers, several, single).tool_calls) == 1
    calls = [call for part in pieces(parsers, several, single) for call in part.tool_calls]
    assert {call["index"] for call in calls} == {0}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_is_wanted_is_a_constraint(parsers: VllmAnswerParsers, choice: Any) -> None:
    reading = parsers.begin(ToolRequest([TOOL], choice), MESSAGES, {}, None)
    assert reading.constraint is not None
    assert "weather" in str(reading.constraint) or "city" in str(reading.constraint)
    assert reading.sampling == {"skip_special_tokens": False}


def test_a_call_after_reasoning(thinking: VllmAnswerParsers) -> None:
    parts = whole(thinking, f"{THOUGHT}{CALL}", ToolRequest([TOOL], "auto"))
    assert (parts.reasoning.strip(), parts.text) == ("it rains.", "")
    assert functions(parts.tool_calls) == [("weather", {"city": "Rome"})]


def test_what_the_template_and_the_engine_get(thinking: VllmAnswerParsers) -> None:
    reading = thinking.begin(ToolRequest([TOOL], "auto"), MESSAGES, {"enable_thinking": False}, None)
    assert reading.tools is not None
    assert reading.tools[0]["function"]["name"] == "weather"
    options = reading.engine_options([1, 2])
    assert options["reasoning_parser_kwargs"] == {"chat_template_kwargs": {"enable_thinking": False}}
    assert "reasoning_ended" in options
    assert thinking.begin(ToolRequest(), MESSAGES, {}, None).tools is None


def test_a_clients_own_constraint_stays(parsers: VllmAnswerParsers) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    own = StructuredOutputsParams(regex="a+")
    assert parsers.begin(ToolRequest([TOOL], "none"), MESSAGES, {}, own).constraint == own


def test_a_model_without_parsers_gives_the_text_as_it_is(vllm: None) -> None:
    parsers = VllmAnswerParsers(model(""), {})
    assert (parsers.reasoning, parsers.tool_calls) == (False, False)
    assert whole(parsers, CALL, ToolRequest([TOOL], "none")) == AnswerParts(CALL)
    reading = parsers.begin(ToolRequest([TOOL], "none"), MESSAGES, {}, None)
    assert reading.engine_options([1]) == {"reasoning_ended": None}


@pytest.mark.parametrize("choice", ["sometimes", {"type": "function"}, {"type": "function", "function": {}}, 5])
def test_a_choice_that_vllm_refuses_is_the_clients_fault(parsers: VllmAnswerParsers, choice: Any) -> None:
    with pytest.raises(InvalidRequestError) as error:
        parsers.begin(ToolRequest([TOOL], choice), MESSAGES, {}, None)
    assert "tool_choice" in str(error.value)
    assert " at 0x" not in str(error.value)
