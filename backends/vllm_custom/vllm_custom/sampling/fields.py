"""Read request parameters by the types that the installed vLLM gives its own fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreConfig

from vllm_custom.errors import invalid
from vllm_custom.first_error import stop_at_first_error


class FieldReader:
    """Turns what a client sent into values of the right type, field by field.

    Strings that hold numbers, booleans, lists or objects are read as such.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """``fields``: name to type annotation."""
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
        problem = problems[0].errors()[0]["msg"]
        raise invalid(name, value, f"a valid value of vLLM's parameter ({problem})") from problems[0]


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
