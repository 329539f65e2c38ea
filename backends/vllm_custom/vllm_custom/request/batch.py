"""The rows of a batch are answered by one response, so that their outputs have to fit each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_custom.contract.names import DOCUMENTS, EMBEDDING_REQUEST, TOOL_CALLS
from vllm_custom.errors import InvalidRequestError, shorten
from vllm_custom.request.parse import InferenceCall

_RETURN_PREFIX = "return_"

# What decides which outputs a row has and how large they are, by the name that the client knows.
_DECISIVE: tuple[tuple[str, Callable[[InferenceCall], object]], ...] = (
    ("n", lambda call: _number(call, "n", 1)),
    ("task", lambda call: call.sampling.get("task")),
    ("dimensions", lambda call: _number(call, "dimensions", None)),
    (EMBEDDING_REQUEST, lambda call: "given" if call.embedding_request else "not given"),
    (DOCUMENTS, lambda call: None if call.pairs is None else f"{len(call.pairs.documents)} elements"),
)


def check_batch(calls: Sequence[InferenceCall]) -> None:
    """Refuse rows that cannot be answered together.

    Args:
        calls: one for each row, at least one.

    Raises:
        InvalidRequestError: names the input or parameter that differs, the row, and both values.
    """
    first = calls[0]
    for row, call in enumerate(calls[1:], 1):
        for output in sorted(first.additional_outputs ^ call.additional_outputs):
            here = output in call.additional_outputs
            asked = "tools" if output == TOOL_CALLS else f"{_RETURN_PREFIX}{output}"
            raise _differs(asked, row, str(here).lower(), str(not here).lower())
        for name, read in _DECISIVE:
            if read(first) != read(call):
                raise _differs(name, row, _shown(read(call)), _shown(read(first)))


def _number(call: InferenceCall, name: str, default: int | None) -> object:
    """A parameter as sent, which may be a number in a string."""
    value = call.sampling.get(name)
    if value is None:
        return default
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    return int(text) if text.isdecimal() and len(text) < 20 else value


def _shown(value: object) -> str:
    return value if isinstance(value, str) else shorten(value)


def _differs(name: str, row: int, got: str, first: str) -> InvalidRequestError:
    values = f"got {got} in row {row} and {first} in row 0"
    return InvalidRequestError(f"{name}: expected the same value in all rows of a batch, {values}", param=name)
