"""vLLM's parsers for reasoning and tool calls, used as its own server uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_custom.engine.answers import AnswerParts, ToolRequest
from vllm_custom.engine.vllm.prompts import rendering
from vllm_custom.errors import InvalidRequestError
from vllm_custom.kernel import engine_errors

_NO_MESSAGE = ({"role": "user", "content": ""},)
# What parsers change of a request that is no constraint.
_SAMPLING = ("skip_special_tokens", "spaces_between_special_tokens")


class VllmAnswerParsers:
    """The parsers that the engine's configuration and the arguments of vLLM's server name."""

    def __init__(self, llm: Any, arguments: Mapping[str, Any]) -> None:
        """Raises: whatever vLLM raises of parsers that do not fit the tokenizer or each other."""
        from vllm.parser import ParserManager

        config = llm.model_config
        self._llm = llm
        self.auto = bool(arguments.get("enable_auto_tool_choice"))
        self.hidden = bool(arguments.get("exclude_tools_when_tool_choice_none"))
        self.cls = ParserManager.get_parser(
            tool_parser_name=arguments.get("tool_call_parser") or None,
            reasoning_parser_name=llm.vllm_config.structured_outputs_config.reasoning_parser or None,
            enable_auto_tools=self.auto,
            tool_strict_level=arguments.get("tool_strict_level", "auto"),
            model_name=config.model,
            is_harmony=getattr(config.hf_config, "model_type", "") == "gpt_oss",
            tokenizer=rendering(llm).tokenizer,
        )

    @property
    def reasoning(self) -> bool:
        return self.cls is not None and self.cls.reasoning_parser_cls is not None

    @property
    def tool_calls(self) -> bool:
        return self.cls is not None and self.cls.tool_parser_cls is not None

    def begin(
        self,
        asked: ToolRequest,
        messages: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
        constraint: Any,
    ) -> VllmChatReading:
        try:
            return VllmChatReading(self, _request(asked, messages, constraint), template_kwargs)
        except Exception as error:  # pydantic's, vLLM's, and those of parsers that look into schemas
            raise engine_errors.explain(error) or InvalidRequestError(f"tools: {error}") from error

    def parser(self, request: Any, template_kwargs: Mapping[str, Any]) -> Any:
        """A new parser, for one sequence; None where the model has none."""
        if self.cls is None:
            return None
        tokenizer, config = rendering(self._llm).tokenizer, self._llm.model_config
        return self.cls(tokenizer, request.tools, chat_template_kwargs=dict(template_kwargs), model_config=config)


class VllmChatReading:
    """How the answer to one request is read."""

    def __init__(self, parsers: VllmAnswerParsers, request: Any, template_kwargs: Mapping[str, Any]) -> None:
        self._parsers = parsers
        self._template_kwargs = template_kwargs
        self._parser = parsers.parser(request, template_kwargs)
        before = {name: getattr(request, name) for name in _SAMPLING}
        if self._parser is not None and (parsers.reasoning or request.tool_choice != "none" or _always(self._parser)):
            request = self._parser.adjust_request(request)
        self._request = request
        self.constraint = request.extract_structured_outputs()
        self.sampling = {name: getattr(request, name) for name in _SAMPLING if getattr(request, name) != before[name]}
        hidden = request.tool_choice == "none" and parsers.hidden
        self.tools = None if hidden or not request.tools else [tool.model_dump() for tool in request.tools]

    def reader(self) -> VllmAnswerReader:
        parser = self._parsers.parser(self._request, self._template_kwargs)
        return VllmAnswerReader(parser, self._request, auto=self._parsers.auto)

    def engine_options(self, prompt_ids: Sequence[int]) -> Mapping[str, Any]:
        options = {"reasoning_ended": self._request.resolve_reasoning_ended(self._parser, list(prompt_ids))}
        if self._parsers.reasoning:
            options["reasoning_parser_kwargs"] = {"chat_template_kwargs": dict(self._template_kwargs)}
        return options


class VllmAnswerReader:
    """Takes one sequence apart."""

    def __init__(self, parser: Any, request: Any, *, auto: bool) -> None:
        self._parser = parser
        self._request = request
        self._auto = auto

    def whole(self, text: str, token_ids: Sequence[int], prompt_ids: Sequence[int]) -> AnswerParts:
        if self._parser is None:
            return AnswerParts(text)
        from vllm.renderers.chat_utils import make_tool_call_id

        self._parser.set_prompt_token_ids(list(prompt_ids))
        reasoning, content, calls = self._parser.parse(
            text, self._request, enable_auto_tools=self._auto, model_output_token_ids=token_ids
        )
        made = [
            {
                "id": call.id or make_tool_call_id(),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls or ()
        ]
        return AnswerParts(content or "", reasoning or "", made if self._request.parallel_tool_calls else made[:1])

    def piece(self, text: str, token_ids: Sequence[int], prompt_ids: Sequence[int], *, finished: bool) -> AnswerParts:
        if self._parser is None:
            return AnswerParts(text)
        delta = self._parser.parse_delta(
            delta_text=text,
            delta_token_ids=list(token_ids),
            request=self._request,
            prompt_token_ids=list(prompt_ids),
            finished=finished,
        )
        if delta is None:
            return AnswerParts()
        calls = [
            call.model_dump(exclude_none=True)
            for call in delta.tool_calls or ()
            if self._request.parallel_tool_calls or call.index == 0
        ]
        return AnswerParts(delta.content or "", delta.reasoning or "", calls)


def _request(asked: ToolRequest, messages: Sequence[Mapping[str, Any]], constraint: Any) -> Any:
    """What vLLM's parsers look at. The messages are not checked: some count the tool calls in them, and no more."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    tools = {"tools": list(asked.tools), "tool_choice": asked.choice} if asked.tools else {}
    request = ChatCompletionRequest(
        messages=_NO_MESSAGE, parallel_tool_calls=asked.parallel, structured_outputs=constraint, **tools
    )
    request.messages = list(messages)
    return request


def _always(parser: Any) -> bool:
    return bool(getattr(parser, "always_adjust_request", False))
