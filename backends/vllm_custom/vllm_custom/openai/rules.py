"""The rules for clients, in the body of a call of the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.contract.fields import VLLM_FIELDS
from vllm_custom.contract.specs import Trust
from vllm_custom.errors import invalid
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.request.field_rules import check_fields, check_trust
from vllm_custom.request.parameters import LONGEST_NAME
from vllm_custom.request.processor_kwargs import check_processor_kwargs
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.template_kwargs import TEMPLATE, check_template, check_template_kwargs
from vllm_custom.request.text import characters_of, check_messages

_JUDGED_FIELDS = frozenset(spec.name for spec in VLLM_FIELDS if spec.trust is not Trust.FREE)
# vLLM's server puts them into extra_args.
_EXTRA_ARGS = ("vllm_xargs", "kv_transfer_params", "ec_transfer_params")
_TEXT_LISTS = ("documents", "queries", "items", "data_1", "data_2", "text_1", "text_2")
_PROMPTS = ("prompt", "input")
_WITHOUT_CONTEXT = ("/tokenize", "/detokenize")
# The body has them beside chat_template_kwargs.
_OWN = frozenset({"tools"})


def check_body(body: Mapping[str, Any], rules: ClientRules, path: str = "") -> None:
    """Refuse what a client may not set, or too much of it, whatever the route; for some routes ``path`` bounds more.

    Raises:
        InvalidRequestError: names the key of the body.
    """
    model = body.get("model")
    if isinstance(model, str) and len(model) > LONGEST_NAME:
        raise invalid("model", model, f"a name of at most {LONGEST_NAME} characters")
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
    cut = body.get("truncate_prompt_tokens") is not None
    for name in ("messages", "input"):
        if _has_messages(body.get(name)):
            check_messages(body[name], rules, name, cut=cut)
    if path in _WITHOUT_CONTEXT:
        _check_tokenizing(body, rules)


def _check_tokenizing(body: Mapping[str, Any], rules: ClientRules) -> None:
    for name, value in body.items():
        if name == "messages" and isinstance(value, list):
            rules.check(name, characters_of(value), "TOKENIZE_MAX_CHARACTERS", "characters")
        elif name in ("prompt", "tokens") and isinstance(value, (str, list)):
            rules.check(name, len(value), "TOKENIZE_MAX_CHARACTERS", "characters or token ids")


def prompts(body: Mapping[str, Any]) -> int:
    """How many prompts ``body`` holds."""
    return max(len(body[name]) if _is_batch(body.get(name)) else 1 for name in _PROMPTS)


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


def _is_batch(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], (str, list))


def _has_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], (dict, list))


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(name, value, "an object")
    return value
