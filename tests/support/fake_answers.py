"""Parsers for reasoning and tool calls without a model, for the fake engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_custom.engine.answers import AnswerParts, ToolRequest


class FakeParsers:
    """What is before the word </think> is reasoning, and a word such as call:name a tool call."""

    reasoning = tool_calls = True

    def begin(
        self,
        asked: ToolRequest,
        messages: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
        constraint: Any,
    ) -> FakeReading:
        return FakeReading(asked, constraint)


@dataclass
class FakeReading:
    """Of one request."""

    asked: ToolRequest
    constraint: Any
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"min_tokens": 1})

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        return [dict(tool) for tool in self.asked.tools] or None

    def reader(self) -> FakeReader:
        return FakeReader(calls=self.asked.may_call)

    def engine_options(self, prompt_ids: Sequence[int]) -> Mapping[str, Any]:
        return {"reasoning_ended": not prompt_ids}


@dataclass
class FakeReader:
    """Of one sequence, a word at a time."""

    calls: bool
    thinking: bool = True
    made: int = 0

    def whole(self, text: str, token_ids: Sequence[int], prompt_ids: Sequence[int]) -> AnswerParts:
        parts = AnswerParts()
        for word in text.split():
            new = self.piece(f" {word}", (), prompt_ids, finished=False)
            parts.text, parts.reasoning = parts.text + new.text, parts.reasoning + new.reasoning
            parts.tool_calls += new.tool_calls
        return parts

    def piece(self, text: str, token_ids: Sequence[int], prompt_ids: Sequence[int], *, finished: bool) -> AnswerParts:
        word = text.strip()
        if word == "</think>":
            self.thinking = False
            return AnswerParts()
        if self.thinking:
            return AnswerParts(reasoning=text)
        if not self.calls or not word.startswith("call:"):
            return AnswerParts(text)
        self.made += 1
        function = {"name": word.removeprefix("call:"), "arguments": "{}"}
        return AnswerParts(tool_calls=[{"index": self.made - 1, "function": function}])
