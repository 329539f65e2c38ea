"""Answers taken apart: what handlers ask of an engine's parsers for reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class ToolRequest:
    """What a request says of tools, in OpenAI's form.

    Attributes:
        tools: what the model may call.
        choice: none, auto, required, or an object that names one of them.
        parallel: whether it may call several at once.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    choice: str | Mapping[str, Any] = "none"
    parallel: bool = True

    @property
    def may_call(self) -> bool:
        """Whether calls are looked for in the answer."""
        return bool(self.tools) and self.choice != "none"


@dataclass
class AnswerParts:
    """A text or a piece of one, taken apart.

    Attributes:
        text: what is meant for the user.
        reasoning: what the model thought before.
        tool_calls: in OpenAI's form; of a piece, what is new of them, each with its ``index``.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


class AnswerReader(Protocol):
    """Takes one sequence apart: as a whole, or piece by piece."""

    def whole(self, text: str, token_ids: Sequence[int], prompt_ids: Sequence[int]) -> AnswerParts:
        """The parts of a text that is complete."""

    def piece(self, text: str, token_ids: Sequence[int], prompt_ids: Sequence[int], *, finished: bool) -> AnswerParts:
        """The parts of what is new; ``finished``: there is no more."""


class ChatReading(Protocol):
    """How the answer to one request is read, and what that asks of the request."""

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """For the chat template; None where there are none, or the template is not to have them."""

    @property
    def constraint(self) -> Any:
        """StructuredOutputsParams, or None: the client's own, or what makes the model call a tool."""

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Fields of SamplingParams that the parsers need, which win over the client's."""

    def reader(self) -> AnswerReader:
        """A new one, for one sequence."""

    def engine_options(self, prompt_ids: Sequence[int]) -> Mapping[str, Any]:
        """What the engine has to know of the reasoning."""


class AnswerParsers(Protocol):
    """The parsers of one model."""

    @property
    def reasoning(self) -> bool:
        """Whether there is one for reasoning."""

    @property
    def tool_calls(self) -> bool:
        """Whether there is one for tool calls, which the model may make by itself."""

    def begin(
        self,
        asked: ToolRequest,
        messages: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
        constraint: Any,
    ) -> ChatReading:
        """How the answer to a request is read. Raises: InvalidRequestError: tools that the engine refuses."""
