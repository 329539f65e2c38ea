"""Read request parameters by the types that the installed vLLM gives its own fields."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreConfig, ErrorDetails

from .errors import invalid
from .fail_fast import stop_at_first_error

_WORDS: Mapping[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    dict: "an object",
    list: "a list",
    type(None): "null",
}
_PYDANTICS_WORDS = "Input should be "


class FieldReader:
    """Turns what a client sent into values of the right type, field by field.

    Strings that hold numbers, booleans, lists or objects are read as such, since Triton's generate endpoint takes
    scalars only.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """``fields``: name to type annotation."""
        self._types = dict(fields)
        self._adapters: dict[str, TypeAdapter[Any]] = {
            name: TypeAdapter(annotation, config={"arbitrary_types_allowed": True, "allow_inf_nan": False})
            for name, annotation in fields.items()
        }
        for adapter in self._adapters.values():
            stop_at_first_error(adapter, CoreConfig(allow_inf_nan=False))

    @property
    def names(self) -> list[str]:
        """Fields that a request may set."""
        return list(self._adapters)

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fields by name, typed.

        Raises:
            InvalidRequestError: a value of the wrong type.
        """
        return {name: self._read(name, value) for name, value in given.items()}

    def _read(self, name: str, value: Any) -> Any:
        adapter = self._adapters[name]
        problems: list[ValidationError] = []
        for reading in _readings(value):
            try:
                return _in_range(name, adapter.validate_python(reading))
            except ValidationError as error:
                problems.append(error)
        raise invalid(name, value, self._expected(name, problems[0].errors()[0])) from problems[0]

    def _expected(self, name: str, problem: ErrorDetails) -> str:
        """The type, if words of JSON say it all; else what pydantic expected there."""
        words = describe_type(self._types[name])
        return expectation(problem) if words is None or problem["type"] == "finite_number" else words


def describe_type(annotation: Any) -> str | None:
    """A type in the words of JSON; None for one that has further rules."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    inner = [describe_type(argument) for argument in arguments if argument is not Any]
    if None in inner:
        return None
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(str, inner))
    if origin is list and inner:
        return f"a list (each element {inner[0]})"
    if origin is dict and len(inner) == 2:
        return f"an object (each key {inner[0]}, each value {inner[1]})"
    return "an object" if origin is dict else None


def expectation(problem: ErrorDetails) -> str:
    """What pydantic expected, as a phrase that follows the word "expected"."""
    text = problem["msg"]
    if text.startswith(_PYDANTICS_WORDS):
        return text.removeprefix(_PYDANTICS_WORDS)
    return f"a valid value ({text})"


def _readings(value: Any) -> list[Any]:
    """What a value as sent may mean, the likeliest first: a string may be JSON.

    ``stop`` takes a string as well as a list, so the text of a list is read as a list first.
    """
    if not isinstance(value, str):
        return [value]
    try:
        parsed = msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return [value]
    return [parsed, value] if isinstance(parsed, list) else [value, parsed]


def _in_range(name: str, value: Any) -> Any:
    """vLLM sends its parameters to the engine as 64-bit integers."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise invalid(name, value, "a 64-bit integer")
    return value
