"""Limits of texts and messages that clients send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vllm_custom.contract.names import MESSAGES
from vllm_custom.errors import InvalidRequestError
from vllm_custom.request.rules import ClientRules

# Of a text that is cut to a number of tokens, this many times what fits may be sent.
_CUT_TIMES = 16


def check_text(name: str, characters: int, rules: ClientRules, *, cut: bool = False) -> None:
    """Refuse text that is too long for the model's context whatever it says, before a tokenizer sees it.

    Args:
        name: of the field in messages.
        characters: its length.
        rules: of the model; its longest token times max_model_len is what fits.
        cut: whether only the first or last tokens of it will be read.

    Raises:
        InvalidRequestError: it is longer.
    """
    most = rules.max_prompt_chars
    if most is not None and characters > most * (_CUT_TIMES if cut else 1):
        most *= _CUT_TIMES if cut else 1
        raise InvalidRequestError(
            f"{name}: expected at most {most} characters, since more cannot fit into the context of this model "
            f"(max_model_len), got {characters}"
        )


def check_messages(messages: Iterable[Any], rules: ClientRules, name: str = MESSAGES, *, cut: bool = False) -> None:
    """Refuse too many messages and parts, and too much text in them. What is malformed is not judged here.

    Raises:
        InvalidRequestError: names the limit.
    """
    parts = characters = 0
    for message in messages:
        contents, calls = _contents(message), message.get("tool_calls") if isinstance(message, Mapping) else None
        inner = [part.get("content") for content in contents for part in _listed(content) if isinstance(part, Mapping)]
        parts += 1 + sum(len(_listed(several)) for several in (*contents, calls, *inner))
        rules.check(name, parts, "MAX_MESSAGE_PARTS", "messages, parts and tool calls")
        characters += sum(map(_characters, contents))
    check_text(name, characters, rules, cut=cut)


def characters_of(messages: Iterable[Any]) -> int:
    """How long all text of ``messages`` is."""
    return sum(_characters(content) for message in messages for content in _contents(message))


def _contents(message: Any) -> list[Any]:
    """What of a message, or of an item of the Responses API, becomes text of the prompt."""
    return [message.get(key) for key in _CONTENT_KEYS] if isinstance(message, Mapping) else [message]


def _characters(content: Any) -> int:
    return sum(map(_text_length, content if isinstance(content, list) else (content,)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text_length(part: Any) -> int:
    if isinstance(part, Mapping):
        own = sum(len(part[key]) for key in _TEXT_KEYS if isinstance(part.get(key), str))
        return own + (_characters(part["content"]) if "content" in part else 0)
    return len(part) if isinstance(part, str) else 0


_CONTENT_KEYS = ("content", "output", "reasoning", "reasoning_content")
_TEXT_KEYS = ("text", "refusal", "thinking", "name")
