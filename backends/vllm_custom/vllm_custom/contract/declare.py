"""Declare a parameter as a typed field, and make its row of the contract's tables from the declaration."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from vllm_custom.contract.specs import ConfigParameterSpec, RequestParameterSpec, Trust, Use

_ABOUT = "about"
_TYPE_NAMES = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "string",
    dict: "JSON object",
    list: "JSON list of strings",
}


def config_parameter(
    default: object,
    meaning: str,
    *,
    minimum: int = 0,
    unit: str = "",
    official: bool = False,
    parse: Callable[[str], object] | None = None,
    allowed: str = "",
) -> Any:
    """A field for one entry of ``parameters`` in config.pbtxt; the arguments are those of ConfigParameterSpec."""
    about = {"minimum": minimum, "unit": unit, "official": official, "parse": parse, "allowed": allowed}
    return _field(default, {"meaning": meaning, **about})


def request_parameter(
    default: object,
    meaning: str,
    *,
    default_text: str = "",
    type_text: str = "",
    unit: str = "",
    official: bool = False,
    trust: Trust = Trust.FREE,
    by: tuple[str, ...] = (),
    use: Use = Use.ALL,
    **constraints: Any,
) -> Any:
    """A field for one request parameter.

    Args:
        default: its value where the request does not set it.
        meaning: of the parameter, for the reference page.
        default_text: the default in words, where it depends on the request or the model.
        type_text: the type in words, where it is one of several.
        unit: of the value.
        official: whether the official backend has it under the same name and with the same meaning.
        trust: who may set it.
        by: the config parameters that bound it, or open it.
        use: the requests that it has an effect on.
        constraints: pydantic's, such as ``ge``.
    """
    about = {"meaning": meaning, "default_text": default_text, "type_text": type_text, "unit": unit}
    return _field(default, {**about, "official": official, "trust": trust, "by": by, "use": use}, **constraints)


def config_specs(*models: type[BaseModel]) -> tuple[ConfigParameterSpec, ...]:
    """The rows of all fields."""
    return tuple(
        ConfigParameterSpec(name.upper(), kind=_kind(field), default=field.get_default(), **_about(field))
        for model in models
        for name, field in model.model_fields.items()
    )


def request_specs(model: type[BaseModel]) -> tuple[RequestParameterSpec, ...]:
    """The rows of all fields."""
    return tuple(_request_spec(name, field) for name, field in model.model_fields.items())


def _request_spec(name: str, field: FieldInfo) -> RequestParameterSpec:
    about = _about(field)
    unit, default_text = about.pop("unit"), about.pop("default_text")
    type_name = (about.pop("type_text") or _type_name(field)) + (f", {unit}" if unit else "")
    return RequestParameterSpec(name, type_name, default_text or _in_words(field.get_default()), **about)


def _type_name(field: FieldInfo) -> str:
    """In the words of JSON; a list is one of strings where its elements are no objects."""
    kind = _kind(field)
    return "JSON list of objects" if kind is list and "dict" in str(field.annotation) else _TYPE_NAMES[kind]


def _field(default: object, about: Any, **constraints: Any) -> Any:
    return Field(default=default, json_schema_extra={_ABOUT: about}, **constraints)


def _about(field: FieldInfo) -> dict[str, Any]:
    extra: Any = field.json_schema_extra
    return dict(extra[_ABOUT])


def _kind(field: FieldInfo) -> type:
    """The type without what it may also be (None) or hold."""
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
        if get_origin(annotation) in (Union, UnionType):
            (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    kind: type = get_origin(annotation) or annotation
    return kind


def _in_words(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default is None else str(default)
