"""The model's own configuration: ``parameters`` of config.pbtxt, typed, checked and frozen at load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter

from vllm_custom.contract.config import CONFIG_PARAMETERS, PYTHON_BACKEND_PARAMETERS, ConfigParameters
from vllm_custom.contract.specs import ConfigParameterSpec
from vllm_custom.errors import ConfigError, listing, shorten, suggestion


class Settings(ConfigParameters):
    """What config.pbtxt says about this model. Sizes are in bytes, pixels, frames and seconds."""

    model_name: str
    decoupled: bool
    max_batch_size: int = Field(ge=0)
    declared_outputs: frozenset[str]
    declared_inputs: frozenset[str] = frozenset()

    def read_chat_template(self, version_dir: Path) -> str | None:
        """The text of CHAT_TEMPLATE, a path that may be relative to ``version_dir``; None where it is not set.

        Raises:
            ConfigError: the file cannot be read.
        """
        if not self.chat_template:
            return None
        try:
            return (version_dir / self.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"config.pbtxt: parameter CHAT_TEMPLATE: expected a readable UTF-8 file, got {self.chat_template!r}"
            ) from error

    def find_lora_dir(self, version_dir: Path, *, enable_lora: bool) -> Path | None:
        """LORA_DIR as an absolute path, relative ones from ``version_dir``; None where it is not set.

        Raises:
            ConfigError: there is no such folder, or the engine runs without LoRA.
        """
        if not self.lora_dir:
            return None
        if not enable_lora:
            raise ConfigError("config.pbtxt: parameter LORA_DIR needs enable_lora: true in model.json")
        folder = (version_dir / self.lora_dir).resolve()
        if not folder.is_dir():
            raise ConfigError(f"config.pbtxt: parameter LORA_DIR: expected a folder, got {self.lora_dir!r}")
        return folder

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> Settings:
        """Read Triton's model configuration (``json.loads(args["model_config"])``).

        Raises:
            ConfigError: an unknown key or a bad value; names the key, the value and what is allowed.
        """
        given = {key: entry.get("string_value", "") for key, entry in model_config.get("parameters", {}).items()}
        made = cls(
            model_name=model_config["name"],
            decoupled=bool(model_config.get("model_transaction_policy", {}).get("decoupled", False)),
            max_batch_size=int(model_config.get("max_batch_size", 0)),
            declared_outputs=frozenset(output["name"] for output in model_config.get("output", [])),
            declared_inputs=frozenset(tensor["name"] for tensor in model_config.get("input", [])),
            **_parse_parameters(given),
        )
        if made.openai_stored_responses and (number := _instances(model_config)) > 1:
            raise ConfigError(
                "config.pbtxt: parameter OPENAI_STORED_RESPONSES: expected 0, since each instance has a store of its "
                f"own and Triton chooses the instance, got {made.openai_stored_responses} with {number} instances"
            )
        return made


def _instances(model_config: Mapping[str, Any]) -> int:
    groups = model_config.get("instance_group", [])
    return sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups)


def _parse_parameters(given: Mapping[str, str]) -> dict[str, Any]:
    specs = {spec.name: spec for spec in CONFIG_PARAMETERS}
    ours = {key: value for key, value in given.items() if key not in PYTHON_BACKEND_PARAMETERS}
    for key in ours:
        if key not in specs:
            raise ConfigError(_unknown_key(key, list(specs)))
    return {spec.name.lower(): _value(spec, ours.get(spec.name)) for spec in CONFIG_PARAMETERS}


def _value(spec: ConfigParameterSpec, text: str | None) -> object:
    if text is None:
        return spec.default
    if spec.kind is tuple:
        return _list_value(spec, text)
    try:
        if spec.parse is not None:
            return spec.parse(text.strip())
        value: bool | int | str = TypeAdapter(spec.kind).validate_python(text.strip())
    except ValueError as error:  # pydantic's own is one
        raise _bad_value(spec, text) from error
    if spec.kind is int and int(value) < spec.minimum:
        raise _bad_value(spec, text)
    return value


def _list_value(spec: ConfigParameterSpec, text: str) -> tuple[object, ...]:
    elements = [element.strip() for element in text.split(",")] if text.strip() else []
    parse = spec.parse or str
    if len(elements) < spec.minimum:
        raise _bad_value(spec, text)
    try:
        return tuple(parse(element) for element in elements)
    except ValueError as error:
        raise _bad_value(spec, text) from error


def _bad_value(spec: ConfigParameterSpec, text: str) -> ConfigError:
    return ConfigError(f"config.pbtxt: parameter {spec.name}: expected {_expected(spec)}, got {text!r}")


def _unknown_key(key: str, known: list[str]) -> str:
    hint = suggestion(key.upper(), known)
    engine = "; vLLM engine arguments belong in model.json" if key.islower() else ""
    return f"config.pbtxt: unknown parameter {shorten(key)}{hint} (known: {listing(known)}){engine}"


def _expected(spec: ConfigParameterSpec) -> str:
    if spec.kind is bool:
        return "true or false"
    if spec.kind is int:
        return f"a whole number of at least {spec.minimum}{f' ({spec.unit})' if spec.unit else ''}"
    return spec.allowed or "a string"
