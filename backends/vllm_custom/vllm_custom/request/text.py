"""Limits of texts and messages that clients send."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm_custom.contract.names import MESSAGES
from vllm_custom.contract.request_parameters import LONGEST_NAME
from vllm_custom.errors import InvalidRequestError, invalid
from vllm_custom.request.json_text import is_deeper
from vllm_custom.request.rules import ClientRules

# Of a text that is cut to a number of tokens, this many times what fits may be sent.
_CUT_TIMES = 16
# Keys of a message, or of an item of the Responses API, whose lists hold parts.
PART_LISTS = ("content", "output")
# Their values are no text of a prompt.
_NO_TEXT = frozenset(
    {
        "role",
        "type",
        "image",
        "video",
        "image_url",
        "video_url",
        "audio_url",
        "input_audio",
        "image_embeds",
        "video_embeds",
        "audio_embeds",
        "prompt_embeds",
    }
)


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
    if most is None:
        return
    if cut:  # all of it is tokenised, which takes 250 bytes for a character
        most = max(most, min(most * _CUT_TIMES, rules.limits["TOKENIZE_MAX_CHARACTERS"]))
    if characters > most:
        raise InvalidRequestError(
            f"{name}: expected at most {most} characters, since more cannot fit into the context of this model "
            f"(max_model_len), got {characters}"
        )


def check_messages(messages: Iterable[Any], rules: ClientRules, name: str = MESSAGES, *, cut: bool = False) -> None:
    """Refuse too many messages and parts, and too much text in them. What is malformed is not judged here.

    All text counts but that of media: templates and parsers read more of a message than its content.

    Raises:
        InvalidRequestError: names the limit.
    """
    alone, *several = _conversations(messages)
    everything = [message for conversation in (alone, *several) for message in conversation]
    check_parts(everything, rules, name, len(everything))
    for conversation in (alone, *several):
        check_text(name, characters_of(conversation), rules, cut=cut)


def check_parts(messages: Sequence[Any], rules: ClientRules, name: str, before: int = 0) -> None:
    """Refuse too many elements in the lists of messages: parts, tool calls, and what other items hold.

    Raises:
        InvalidRequestError: there are more than MAX_MESSAGE_PARTS, with ``before``; or a part's type is no name.
    """
    items = [message for message in messages if isinstance(message, Mapping)]
    parts = before + sum(len(value) for item in items for value in item.values() if isinstance(value, list))
    parts += sum(len(_inner(part)) for item in items for key in PART_LISTS for part in _list(item.get(key)))
    rules.check(name, parts, "MAX_MESSAGE_PARTS", "messages, parts and tool calls")
    for item in items:
        for key in PART_LISTS:
            for part in _list(item.get(key)):
                _check_type(part, f"{name}: type of a part of {key}")
        for call in (item, *_list(item.get("tool_calls"))):
            _check_arguments(call, rules, name)


def _check_type(part: Any, where: str) -> None:
    """vLLM writes an unknown one into its log, and keeps it to write it only once."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind is not None and not (isinstance(kind, str) and len(kind) <= LONGEST_NAME):
        raise invalid(where, kind, f"a name of at most {LONGEST_NAME} characters")


def _check_arguments(call: Any, rules: ClientRules, name: str) -> None:
    """vLLM reads the arguments of tool calls, and templates write them again, level by level."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    most = rules.limits["REQUEST_MAX_JSON_DEPTH"]
    if not isinstance(arguments, str) or arguments.count("[") + arguments.count("{") <= most:
        return
    try:
        deep = is_deeper(json.loads(arguments), most)
    except RecursionError:
        deep = True
    except ValueError:  # vLLM takes what is no JSON for no arguments
        return
    if deep:
        raise InvalidRequestError(
            f"{name}: expected arguments of tool calls with at most {most} levels of JSON (REQUEST_MAX_JSON_DEPTH of "
            "this model), got more"
        )


def _inner(part: Any) -> list[Any]:
    """The parts in the result of a tool, as Anthropic's API has it."""
    return _list(part.get("content")) if isinstance(part, Mapping) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def characters_of(messages: Iterable[Any]) -> int:
    """How long all text of ``messages`` is."""
    return sum(_characters(message) for conversation in _conversations(messages) for message in conversation)


def text_length(value: Any) -> int:
    """How many characters the strings and keys in a JSON value have together."""
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return total


def _conversations(messages: Iterable[Any]) -> list[list[Any]]:
    """The messages that stand alone, and those of each list among them; lists of token ids hold none."""
    alone: list[Any] = []
    several: list[list[Any]] = []
    for message in messages:
        if not isinstance(message, list):
            alone.append(message)
        elif any(isinstance(item, Mapping) for item in message):
            several.append(message)
    return [alone, *several]


def _characters(message: Any) -> int:
    if not isinstance(message, Mapping):
        return text_length(message)
    total = 0
    for key, value in message.items():
        if key in PART_LISTS and isinstance(value, list):
            total += sum(map(_text_outside_media, value))
        elif key not in _NO_TEXT:
            total += text_length(value)
    return total


def _text_outside_media(part: Any) -> int:
    if isinstance(part, Mapping):
        inner = _inner(part)  # as deep as JSON may be (REQUEST_MAX_JSON_DEPTH)
        no_text = _NO_TEXT | {"source"} if part.get("type") == "image" else _NO_TEXT
        own = [value for key, value in part.items() if key not in no_text and not (inner and key == "content")]
        return text_length(own) + sum(map(_text_outside_media, inner))
    return text_length(part)
