"""Answers taken apart: which requests ask for that, and what becomes of their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.chat import PromptPlan
from vllm_custom.contract.names import REASONING, RETURN_PREFIX
from vllm_custom.engine.answers import AnswerParsers, AnswerParts, ChatReading
from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.request import InferenceCall
from vllm_custom.request.tool_rules import tool_request
from vllm_custom.responses import ResponseDelta

_TOOL_CALLS = "tool_calls"  # why a sequence ended, as OpenAI has it


class Answers:
    """Reads the answers of one model, where a request has tools or asks for the reasoning."""

    def __init__(self, parsers: AnswerParsers | None) -> None:
        """``parsers``: None where the engine could not make them."""
        self._parsers = parsers

    def begin(self, call: InferenceCall, plan: PromptPlan, constraint: Any) -> ChatReading | None:
        """How the answer is read; None where it is one text. ``constraint``: the request's StructuredOutputsParams.

        Raises:
            UnsupportedError: this model has no parser for what is asked.
            InvalidRequestError: tools that the engine refuses, or a prompt that is no chat.
        """
        asked, reasoning = tool_request(call.control), REASONING in call.additional_outputs
        if not asked.tools and not reasoning:
            return None
        if not plan.templated:
            name = f"{RETURN_PREFIX}{REASONING}"
            raise InvalidRequestError(f"{name}: requires the chat template (messages, or apply_chat_template: true)")
        parsers = self._parsers
        if reasoning and (parsers is None or not parsers.reasoning):
            raise UnsupportedError(f"{RETURN_PREFIX}{REASONING}: this model has no REASONING_PARSER")
        if asked.may_call and (parsers is None or not parsers.tool_calls):
            raise UnsupportedError(
                "tools: this model has no parser for tool calls (TOOL_CALL_PARSER, with ENABLE_AUTO_TOOL_CHOICE); "
                "tool_choice none only shows them to the model"
            )
        if parsers is None:
            raise UnsupportedError("tools: this model has no parsers; the server's log says why")
        return parsers.begin(asked, plan.messages or (), call.control.chat_template_kwargs, constraint)


class AnswerTaker:
    """Takes the sequences of one request apart."""

    def __init__(self, reading: ChatReading, call: InferenceCall, sequences: int) -> None:
        self._readers = [reading.reader() for _ in range(sequences)]
        self._called = [False] * sequences
        self._named = isinstance(call.control.tool_choice, Mapping)

    def whole(self, output: Any, delta: ResponseDelta) -> None:
        """Put the parts of complete texts into ``delta``, which was made of ``output``."""
        prompt = output.prompt_token_ids or ()
        for done in output.outputs:
            self._put(delta, done, self._readers[done.index].whole(done.text, done.token_ids, prompt))

    def piece(self, output: Any, delta: ResponseDelta) -> None:
        """Put the parts of what is new into ``delta``, which was made of ``output``."""
        prompt = output.prompt_token_ids or ()
        for new in output.outputs:
            finished = new.finish_reason is not None
            self._put(delta, new, self._readers[new.index].piece(new.text, new.token_ids, prompt, finished=finished))

    def _put(self, delta: ResponseDelta, completion: Any, parts: AnswerParts) -> None:
        sequence = delta.sequences[completion.index]
        sequence.text, sequence.reasoning, sequence.tool_calls = parts.text, parts.reasoning, parts.tool_calls
        self._called[completion.index] |= bool(parts.tool_calls)
        if completion.finish_reason == "stop" and self._called[completion.index] and not self._named:
            sequence.finish_reason = _TOOL_CALLS
