"""Reasoning and tool calls of chats, for versions of vLLM whose parsers are used in another way."""

from __future__ import annotations

from typing import Any, NoReturn

from vllm_custom.engine.vllm.older.names import find, lacks

_SINCE = "0.20"


def parses_in_pieces() -> bool:
    """Whether this vLLM has one parser for all that an answer consists of."""
    try:
        return hasattr(find("Parser", "vllm.parser.abstract_parser"), "parse_delta")
    except ImportError:
        return False


class NoAnswerParsers:
    """Refuses requests that need parsers. vLLM's own application, behind ``openai_request``, has its own."""

    reasoning = True
    tool_calls = True

    def begin(self, *_asked: Any) -> NoReturn:
        """Raises: UnsupportedError."""
        raise lacks("tools, and reasoning apart from the answer, outside of openai_request", _SINCE)
