"""Answers of OpenAI's API in a form in which two servers' can be compared: without ids, times and chance."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.frontend_process import HttpAnswer

# Ids and times are of one request; a fingerprint is of one configuration; what a cache knows depends on the past.
_OWN = re.compile(r"(^|_)id$|^created(_at)?$|^completed_at$|^system_fingerprint$|^cached_tokens$|^sequence_number$")
_RANDOM = "*"
# The compiler of constraints begins its messages with the time of day.
_TIME = re.compile(r"\[\d\d:\d\d:\d\d\]")


def comparable(answer: HttpAnswer) -> Any:
    """Status, content type and content."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        return answer.status, kind, _merged([_masked(_event(data)) for data in answer.events])
    return answer.status, kind, _masked(json.loads(answer.body)) if kind == "application/json" else answer.body


def _event(data: str) -> Any:
    return data if data == "[DONE]" else json.loads(data)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _RANDOM if _OWN.search(key) and inner is not None else _masked(inner) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    if isinstance(value, str):
        return _TIME.sub(_RANDOM, value)
    # Decimals of two runs agree to more digits than this.
    return round(value, 3) if isinstance(value, float) else value


def _merged(events: list[Any]) -> list[Any]:
    """A server that is slower sends more tokens in an event: neighbours that only add text become one.

    The events of different choices come in any order, so each choice has a list of its own.
    """
    lines: dict[Any, list[Any]] = {}
    for event in events:
        choices = event.get("choices") if isinstance(event, dict) else None
        key = choices[0].get("index", 0) if choices else "-"
        line = lines.setdefault(key, [])
        if not (line and _add(line[-1], event)):
            line.append(event)
    return sorted(lines.items(), key=str)


def _add(last: Any, event: Any) -> bool:
    """Append what ``event`` adds to ``last``, if both are pieces of one text that goes on."""
    if isinstance(last, dict) and isinstance(event, dict) and last.get("type") == event.get("type") == _TEXT_DELTA:
        last["delta"] += event["delta"]
        last["logprobs"] = (last.get("logprobs") or []) + (event.get("logprobs") or [])
        return True
    if _is_bare_end(event) and _piece(last) is not None:  # the token that ends a text has none
        event["choices"][0]["delta"] = {"content": ""}
    pieces = _piece(last), _piece(event)
    if None in pieces or last["choices"][0].get("finish_reason") is not None:
        return False
    (holder, key), (other, other_key) = pieces  # type: ignore[misc]
    if key != other_key or set(holder) != set(other):
        return False
    holder[key] += other[key]
    _join(last["choices"][0], event["choices"][0])
    last.update({field: value for field, value in event.items() if field != "choices"})
    return True


def _is_bare_end(event: Any) -> bool:
    choices = event.get("choices") if isinstance(event, dict) else None
    return bool(choices) and choices[0].get("delta") == {} and choices[0].get("finish_reason") is not None


_TEXT_DELTA = "response.output_text.delta"


def _piece(event: Any) -> tuple[dict[str, Any], str] | None:
    """Where the text of a chunk stands."""
    choices = event.get("choices") if isinstance(event, dict) else None
    if not choices:
        return None
    choice = choices[0]
    if isinstance(choice.get("text"), str):
        return choice, "text"
    delta = choice.get("delta")
    return (delta, "content") if isinstance(delta, dict) and isinstance(delta.get("content"), str) else None


def _join(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key, value in theirs.items():
        if key in ("text", "delta", "index"):
            continue
        if isinstance(value, dict) and isinstance(mine.get(key), dict):
            for inner, part in value.items():
                mine[key][inner] = (mine[key].get(inner) or []) + part if isinstance(part, list) else part
        elif isinstance(value, list) and isinstance(mine.get(key), list):
            mine[key] = mine[key] + value
        elif value is not None or key not in mine:  # the ids of the prompt come with the first piece only
            mine[key] = value
