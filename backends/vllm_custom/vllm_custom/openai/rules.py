"""The rules for clients, in the body of a call of the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.contract.fields import VLLM_FIELDS
from vllm_custom.contract.specs import Trust
from vllm_custom.errors import InvalidRequestError, invalid
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.request.field_rules import check_fields, check_trust
from vllm_custom.request.parameters import LONGEST_NAME
from vllm_custom.request.processor_kwargs import check_processor_kwargs
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.template_kwargs import TEMPLATE, check_template, check_template_kwargs
from vllm_custom.request.text import characters_of, check_messages, check_parts, check_text, text_length
from vllm_custom.structured_outputs.compiler import GROWTH
from vllm_custom.structured_outputs.constraint import KINDS, check_size

_JUDGED_FIELDS = frozenset(spec.name for spec in VLLM_FIELDS if spec.trust is not Trust.FREE)
# vLLM's server puts them into extra_args.
_EXTRA_ARGS = ("vllm_xargs", "kv_transfer_params", "ec_transfer_params")
_TEXT_LISTS = ("documents", "queries", "items", "data_1", "data_2", "text_1", "text_2")
_PROMPTS = ("prompt", "input")
# Each, or each element of a list, becomes a prompt or a part of one.
_TEXTS = (*_PROMPTS, "instructions", "query", "hotwords", *_TEXT_LISTS)
_MESSAGES = ("messages", "input", "previous_input_messages")
_CUTTING = ("truncate_prompt_tokens", "max_tokens_per_query", "max_tokens_per_doc")
# What holds schemas: vLLM writes them as JSON on the event loop before anything else looks at them.
_CONSTRAINTS = (
    "response_format",
    "structured_outputs",
    "text",
    *(f"guided_{kind}" for kind in KINDS),
)
_WITHOUT_CONTEXT = ("/tokenize", "/detokenize")
# vLLM looks the text of each token up on the event loop.
_STRINGS, _STRING_TIMES = "return_token_strs", 4
# The body has them next to chat_template_kwargs.
_OWN = frozenset({"tools"})


def check_body(body: Mapping[str, Any], rules: ClientRules, path: str = "") -> None:
    """Refuse what a client may not set, or too much of it, whatever the route; for some routes ``path`` bounds more.

    Raises:
        InvalidRequestError: names the key of the body.
    """
    # A request's own id travels with each of its tokens; what sessions are called goes to the engine.
    for key in ("model", "request_id", "session_id"):
        name = body.get(key)
        if isinstance(name, str) and len(name) > LONGEST_NAME:
            raise invalid(key, name, f"a name of at most {LONGEST_NAME} characters")
    if body.get(TEMPLATE) is not None:
        check_template(rules, TEMPLATE)
    check_template_kwargs(_object(body, "chat_template_kwargs"), rules, _OWN)
    check_processor_kwargs(_object(body, "mm_processor_kwargs"), rules)
    FrameSampling.requested(None, None, _object(body, "media_io_kwargs"))
    check_fields({name: body[name] for name in _JUDGED_FIELDS & body.keys()}, rules)
    if body.get("stop_sequences") is not None:  # Anthropic's name
        check_fields({"stop": body["stop_sequences"]}, rules)
    if body.get("system") is not None:
        check_messages([{"content": body["system"]}], rules, "system")
    for name in _EXTRA_ARGS:
        check_trust("extra_args", body.get(name), rules, name)
    _check_counts(body, rules)
    _check_texts(body, rules, path)
    for name in _CONSTRAINTS:
        check_size(name, body.get(name), GROWTH * rules.limits["STRUCTURED_MAX_BYTES"])
    if path in _WITHOUT_CONTEXT:
        _check_tokenizing(body, rules)


def check_length(body: Mapping[str, Any], rules: ClientRules) -> None:
    """Refuse a body that is longer than OPENAI_MAX_BODY_BYTES without its media, before it is written as JSON.

    Raises:
        InvalidRequestError: it is.
    """
    most = rules.limits["OPENAI_MAX_BODY_BYTES"]
    lengths = (
        characters_of(value) if name in _MESSAGES and isinstance(value, list) else text_length(value)
        for name, value in body.items()
    )
    number = sum(lengths)
    if number > most:
        raise too_long(number, most)


def too_long(number: int, most: int) -> InvalidRequestError:
    """The error for a body of ``number`` bytes of which ``most`` are allowed."""
    limit = f"{most} bytes of JSON without its media (OPENAI_MAX_BODY_BYTES of this model)"
    return invalid("openai_request.body", number, f"at most {limit}")


def _check_texts(body: Mapping[str, Any], rules: ClientRules, path: str) -> None:
    """Text that no context can hold is refused before a template or a tokenizer sees it."""
    cut = any(body.get(name) is not None for name in _CUTTING)
    check_text("tools", text_length(body.get("tools")), rules)
    for name in _MESSAGES:
        if _has_messages(body.get(name)):
            check_messages(body[name], rules, name, cut=cut)
    for name in () if path in _WITHOUT_CONTEXT else _TEXTS:
        value = body.get(name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, (str, Mapping)):
                check_text(name, characters_of([text]), rules, cut=cut)


def _check_tokenizing(body: Mapping[str, Any], rules: ClientRules) -> None:
    strings = bool(body.get(_STRINGS))
    times = _STRING_TIMES if strings else 1
    more = f", each counted {times} times with {_STRINGS}" if strings else ""
    for name, value in body.items():
        if name == "messages" and isinstance(value, list):
            rules.check(name, times * characters_of(value), "TOKENIZE_MAX_CHARACTERS", f"characters{more}")
        elif name in ("prompt", "tokens") and isinstance(value, (str, list)):
            rules.check(name, times * len(value), "TOKENIZE_MAX_CHARACTERS", f"characters or token ids{more}")


def _check_counts(body: Mapping[str, Any], rules: ClientRules) -> None:
    for name in _PROMPTS:
        if _is_batch(body.get(name)):
            rules.check(name, len(body[name]), "MAX_PROMPTS", "prompts")
    if isinstance(body.get("tools"), list):
        rules.check("tools", len(body["tools"]), "MAX_TOOLS", "tools")
    for name in _TEXT_LISTS:
        value = body.get(name)
        texts = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(texts, list):
            rules.check(name, len(texts), "SCORE_MAX_DOCUMENTS", "elements")
            check_parts(texts, rules, name)


def _is_batch(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], (str, list))


def _has_messages(value: Any) -> bool:
    """Wherever in the list: what is wrong with it is said later."""
    return isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(name, value, "an object")
    return value
