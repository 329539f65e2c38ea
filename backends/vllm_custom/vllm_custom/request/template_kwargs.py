"""chat_template_kwargs: variables of the template are everybody's, arguments of what applies it are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from vllm_custom.errors import InvalidRequestError, invalid, shorten
from vllm_custom.request.json_text import is_deeper
from vllm_custom.request.rules import ClientRules

TEMPLATE = "chat_template"
# They say how the prompt is tokenised or what comes out; a length of 2**40 aborts the process.
_ARGUMENTS = frozenset(
    {
        "chat_template_content_format",
        "conversation",
        "conversations",
        "load_audio_from_video",
        "max_length",
        "messages",
        "model_config",
        "padding",
        "processor_kwargs",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "self",
        "tokenize",
        "tokenizer",
        "tokenizer_kwargs",
        "truncation",
    }
)
_OWN_PARAMETERS = frozenset({"add_generation_prompt", "continue_final_message"})
# Data for the template, although they are arguments.
_DATA = frozenset({"tools", "documents"})


def check_template_kwargs(
    kwargs: Mapping[str, Any], rules: ClientRules, own: frozenset[str] = frozenset(), name: str = "chat_template_kwargs"
) -> None:
    """Refuse what is no variable of a chat template.

    Args:
        kwargs: as sent.
        rules: TRUST_REQUEST_CHAT_TEMPLATE opens the key chat_template.
        own: keys that the request has a place of their own for, in addition to add_generation_prompt and
            continue_final_message.
        name: of the field in messages.

    Raises:
        InvalidRequestError: names the key.
    """
    if not kwargs:
        return
    for key in kwargs:
        _check_key(key, rules, own, name)
    if isinstance(kwargs.get(TEMPLATE, ""), str) is False:
        raise invalid(f"{name}.{TEMPLATE}", kwargs[TEMPLATE], "a string")
    for key in _DATA & kwargs.keys():
        _check_objects(kwargs[key], f"{name}.{key}")
    if is_deeper(kwargs, rules.limits["REQUEST_MAX_JSON_DEPTH"]):
        raise InvalidRequestError(f"{name}: is nested deeper than REQUEST_MAX_JSON_DEPTH of this model allows")
    rules.check(name, len(msgspec.json.encode(kwargs)), "CHAT_TEMPLATE_KWARGS_MAX_BYTES", "bytes of JSON")


def check_template_list(name: str, value: list[Any] | None, kwargs: Mapping[str, Any], rules: ClientRules) -> None:
    """Check a list that goes to the template by a parameter of its own.

    Raises:
        InvalidRequestError: too much of it, or it is in ``kwargs``, which are chat_template_kwargs, as well.
    """
    if value is None:
        return
    if kwargs.get(name) is not None:
        raise InvalidRequestError(f"{name}: expected once, got it in chat_template_kwargs as well")
    rules.check(name, len(msgspec.json.encode(value)), "CHAT_TEMPLATE_KWARGS_MAX_BYTES", "bytes of JSON")


def check_template(rules: ClientRules, name: str) -> None:
    """Refuse a client's template under ``name`` unless clients are trusted with it.

    Raises:
        InvalidRequestError: they are not.
    """
    if not rules.trust_chat_template:
        raise InvalidRequestError(
            f"{name}: a chat template is a program that runs in the server; clients may not send one "
            "(TRUST_REQUEST_CHAT_TEMPLATE of this model is false)"
        )


def _check_key(key: str, rules: ClientRules, own: frozenset[str], name: str) -> None:
    if key == TEMPLATE:
        check_template(rules, f"{name}.{TEMPLATE}")
    elif key in _OWN_PARAMETERS or key in own:
        raise InvalidRequestError(f"{name}: {key} is a separate request parameter; set it outside of {name}")
    elif key in _ARGUMENTS or (key in rules.template_arguments and key not in _DATA):
        raise InvalidRequestError(
            f"{name}: {key} is an argument of the tokenizer or the server; expected variables of the chat template, "
            "such as enable_thinking"
        )
    elif not key.isprintable() or len(key) > _LONGEST_KEY:
        raise invalid(name, key, f"names of at most {_LONGEST_KEY} printable characters")


_LONGEST_KEY = 256


def _check_objects(value: Any, name: str) -> None:
    if value is not None and not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        raise InvalidRequestError(f"{name}: expected a list of objects, got {shorten(value)}")
