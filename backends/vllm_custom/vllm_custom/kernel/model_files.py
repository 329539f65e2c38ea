"""model.json and multi_lora.json of a version folder.

model.json holds vLLM's engine arguments and nothing else, exactly as vLLM names them; multi_lora.json holds LoRA
adapters by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import ConfigError, shorten, suggestion
from .json_objects import parse_object

ENGINE_ARGS_FILE = "model.json"
ADAPTERS_FILE = "multi_lora.json"


def read_engine_args(version_dir: Path) -> dict[str, Any]:
    """The content of model.json.

    Raises:
        ConfigError: the file is missing, or is not a JSON object.
    """
    path = version_dir / ENGINE_ARGS_FILE
    if not path.is_file():
        raise ConfigError(
            f"{ENGINE_ARGS_FILE} is missing: expected {version_dir.parent.name}/{version_dir.name}/{ENGINE_ARGS_FILE} "
            f'with vLLM engine arguments, at least {{"model": "<folder or hub name>"}}'
        )
    return _read_object(path)


def check_engine_args(arguments: Mapping[str, Any], known: Iterable[str]) -> None:
    """Compare the keys of model.json with ``known``, the engine arguments of the installed vLLM.

    Raises:
        ConfigError: names the first key that is unknown, and one that is like it.
    """
    names = set(known)
    for key in arguments:
        if key not in names:
            raise ConfigError(f"{ENGINE_ARGS_FILE}: unknown engine argument {shorten(key)}{suggestion(key, names)}")


def lora_enabled(arguments: Mapping[str, Any]) -> bool:
    """Whether ``enable_lora`` is set: true or false, or as text, as the official backend takes it.

    Raises:
        ConfigError: it is something else.
    """
    value = arguments.get("enable_lora")
    if value is None:
        return False
    word = str(value).lower()
    if isinstance(value, (bool, str)) and word in ("true", "false"):
        return word == "true"
    raise ConfigError(f"{ENGINE_ARGS_FILE}: enable_lora: expected true or false, got {shorten(value)}")


def size_of(arguments: Mapping[str, Any], key: str, default: int = 1) -> int:
    """A number among the engine arguments, such as ``tensor_parallel_size``; ``default`` where it is not given.

    Raises:
        ConfigError: it is not a positive integer.
    """
    value = arguments.get(key)
    if not value:
        return default
    try:
        size = int(value)
    except (TypeError, ValueError):
        size = 0
    if size < 1:
        raise ConfigError(f"{ENGINE_ARGS_FILE}: {key}: expected a positive integer, got {shorten(value)}")
    return size


def read_adapters(version_dir: Path) -> dict[str, str]:
    """The content of multi_lora.json: adapter name to path or hub name.

    Raises:
        ConfigError: the file is missing, or is not an object of strings.
    """
    path = version_dir / ADAPTERS_FILE
    if not path.is_file():
        raise ConfigError(
            f"{ADAPTERS_FILE} is missing: {ENGINE_ARGS_FILE} sets enable_lora; expected LoRA adapters by name"
        )
    adapters = _read_object(path)
    for name, value in adapters.items():
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{ADAPTERS_FILE}: {name}: expected a path or hub name as a string, got {shorten(value)}")
    return adapters


def _read_object(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from error
    return parse_object(text, path.name, ConfigError)
