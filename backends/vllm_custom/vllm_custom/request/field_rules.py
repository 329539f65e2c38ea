"""Fields of vLLM's SamplingParams and PoolingParams: who may set them, and how much of them, before they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vllm_custom.contract.fields import VLLM_FIELDS
from vllm_custom.contract.specs import FieldSpec, Trust
from vllm_custom.errors import InvalidRequestError, invalid, shorten
from vllm_custom.request.json_text import parse_json
from vllm_custom.request.rules import ClientRules
from vllm_custom.request.text import check_text

_SPECS: Mapping[str, FieldSpec] = {spec.name: spec for spec in VLLM_FIELDS}
# A number, a boolean or a word; lists and objects are read as JSON.
_LONGEST_SCALAR = 1000
_TEXTS = frozenset({"instruction"})
_COUNTS = frozenset({"n", "best_of"})


def check_fields(given: Mapping[str, Any], rules: ClientRules) -> dict[str, Any]:
    """Fields by name as sent, with lists and objects that came as JSON text read.

    Raises:
        InvalidRequestError: a field that is the operator's, or more of one than a limit allows.
    """
    return {name: _checked(name, value, rules) for name, value in given.items()}


def check_trust(name: str, value: Any, rules: ClientRules, field: str | None = None) -> None:
    """Refuse ``field`` (default: of the same name as the field ``name`` of vLLM) where it is not the client's to set.

    Raises:
        InvalidRequestError: says which config parameter would open it.
    """
    spec = _SPECS.get(name, FieldSpec(name, Trust.OPERATOR))
    if value is None or spec.trust in (Trust.FREE, Trust.BOUNDED):
        return
    shown = shorten(field or name)[1:-1]
    if spec.trust is Trust.REFUSED:
        raise InvalidRequestError(f"{shown}: is not offered by this server")
    if name not in rules.trusted:
        raise InvalidRequestError(
            f"{shown}: may not be set by clients (TRUSTED_PARAMETERS of this model does not name {shorten(name)[1:-1]})"
        )


def sequences(given: Mapping[str, Any]) -> int:
    """How many sequences fields as sent ask for: n, or best_of where that is more; at least 1."""
    return max(1, _number(given.get("n")) or 1, _number(given.get("best_of")) or 1)


def _checked(name: str, value: Any, rules: ClientRules) -> Any:
    check_trust(name, value, rules)
    if isinstance(value, str):
        value = _read(name, value, rules)
    if name in _COUNTS:
        value = value if (number := _number(value)) is None else number
    check = _CHECKS.get(name)
    if check is not None:
        check(name, value, rules)
    return value


def _read(name: str, text: str, rules: ClientRules) -> Any:
    """``text``, or the list or object that it is JSON of. A stop string may look like JSON and be none."""
    if name in _TEXTS:
        check_text(name, len(text), rules)
        return text
    most = rules.limits["MAX_STOP_CHARACTERS"] if name == "stop" else _LONGEST_SCALAR
    if text.lstrip(" \t\r\n")[:1] in ("[", "{"):
        try:
            value = parse_json(text, name, "JSON", rules)
        except InvalidRequestError:
            if len(text) > most:
                raise
            return text
        if name != "stop" or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            return value
    if len(text) > most:
        hint = " (MAX_STOP_CHARACTERS of this model)" if name == "stop" else ""
        raise invalid(name, text, f"at most {most} characters{hint}")
    return text


def _number(value: Any) -> int | None:
    """The whole number that ``value`` is read as, however it is written; None where it is none."""
    if isinstance(value, str) and len(value) <= _LONGEST_SCALAR:
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def _check_sequences(name: str, value: Any, rules: ClientRules) -> None:
    if isinstance(value, int):
        rules.check(name, value, "MAX_N", "sequences")


def _check_strings(count: str, characters: str) -> Callable[[str, Any, ClientRules], None]:
    def check(name: str, value: Any, rules: ClientRules) -> None:
        strings = value if isinstance(value, list) else [value]
        rules.check(name, len(strings), count, "strings")
        longest = max((len(item) for item in strings if isinstance(item, str)), default=0)
        rules.check(name, longest, characters, "characters in a string")

    return check


def _check_entries(limit: str, unit: str) -> Callable[[str, Any, ClientRules], None]:
    def check(name: str, value: Any, rules: ClientRules) -> None:
        if isinstance(value, (list, dict)):
            rules.check(name, len(value), limit, unit)

    return check


def _check_repetition(name: str, value: Any, rules: ClientRules) -> None:
    for key in ("max_pattern_size", "min_pattern_size", "min_count"):
        number = _number(value.get(key)) if isinstance(value, dict) else None
        rules.check(f"{name}.{key}", number or 0, "MAX_REPETITION_PATTERN", "tokens")


_check_ids = _check_entries("MAX_TOKEN_IDS", "token ids")
_CHECKS: Mapping[str, Callable[[str, Any, ClientRules], None]] = {
    "n": _check_sequences,
    "best_of": _check_sequences,
    "stop": _check_strings("MAX_STOP_STRINGS", "MAX_STOP_CHARACTERS"),
    "bad_words": _check_strings("MAX_BAD_WORDS", "MAX_BAD_WORD_CHARACTERS"),
    "logit_bias": _check_entries("MAX_LOGIT_BIAS", "entries"),
    "stop_token_ids": _check_ids,
    "allowed_token_ids": _check_ids,
    "logprob_token_ids": _check_ids,
    "returned_token_ids": _check_ids,
    "trace_decode_token_ids": _check_ids,
    "repetition_detection": _check_repetition,
}
