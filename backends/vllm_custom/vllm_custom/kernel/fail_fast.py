"""Have pydantic stop at the first element that is wrong, instead of collecting what is wrong with all of them.

It notes every branch of a union that an element does not fit, and gives each note as an object: some of OpenAI's lists
make hundreds for one element. A client that sends thousands of wrong elements would hold the interpreter for a minute.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreConfig, PydanticCustomError, SchemaValidator

_LISTS = ("list", "set", "frozenset", "tuple")
_MOST = 1000


def stop_at_first_error(adapter: TypeAdapter[Any], config: CoreConfig | None = None) -> None:
    """Let ``adapter`` refuse a list because of the first wrong element, and an object with at most so many reasons.

    Args:
        config: what the adapter was made with, as far as it concerns validation. Its schema does not hold it.
    """
    schema = _failing_fast(adapter.core_schema, {})
    try:
        validator = SchemaValidator(schema, config, _use_prebuilt=False)  # without models as they were
    except TypeError:  # an older pydantic, which does not know prebuilt ones
        validator = SchemaValidator(schema, config)
    adapter.validator = _FewErrors(validator)  # type: ignore[assignment]


class _FewErrors:
    """A validator whose errors are few: nothing stops pydantic early in an object of many wrong values."""

    def __init__(self, validator: SchemaValidator) -> None:
        self._validator = validator

    def validate_python(self, value: Any, **options: Any) -> Any:
        """As pydantic's."""
        try:
            return self._validator.validate_python(value, **options)
        except ValidationError as error:
            count = error.error_count()
            if count <= _MOST:
                raise
            reason = PydanticCustomError("too_many_errors", "Input should be valid, it has {n} errors", {"n": count})
            raise ValidationError.from_exception_data(error.title, [{"type": reason, "input": None}]) from None


def _failing_fast(node: Any, made: dict[int, Any]) -> Any:
    """A copy of a core schema, or of a part of one, whose lists fail fast."""
    if not isinstance(node, (dict, list, tuple)):
        return node
    if id(node) not in made:
        if isinstance(node, dict):
            copy: Any = {key: _failing_fast(value, made) for key, value in node.items()}
            if copy.get("type") in _LISTS:
                copy["fail_fast"] = True
        else:
            copy = type(node)(_failing_fast(item, made) for item in node)
        made[id(node)] = copy
    return made[id(node)]
