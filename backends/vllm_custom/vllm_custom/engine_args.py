"""model.json and multi_lora.json: read, checked by name, and relative paths resolved.

model.json holds vLLM's engine arguments and nothing else, exactly as vLLM names them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vllm_custom.errors import ConfigError

ENGINE_ARGS_FILE = "model.json"
MULTI_LORA_FILE = "multi_lora.json"

# Engine arguments that name a file or folder, or else something on a model hub.
_PATH_ARGUMENTS = (
    "model",
    "tokenizer",
    "hf_config_path",
    "download_dir",
    "generation_config",
    "allowed_local_media_path",
)


def load_engine_args(version_dir: Path, known: Iterable[str]) -> dict[str, Any]:
    """Read ``model.json``; check every key against ``known``, the engine arguments of the installed vLLM.

    Raises:
        ConfigError: the file is missing, is not a JSON object, or has an unknown key.
    """
    path = version_dir / ENGINE_ARGS_FILE
    if not path.is_file():
        raise ConfigError(
            f"{ENGINE_ARGS_FILE} is missing: expected {version_dir.parent.name}/{version_dir.name}/{ENGINE_ARGS_FILE} "
            f'with vLLM engine arguments, at least {{"model": "<folder or hub name>"}}'
        )
    arguments = _read_json_object(path)
    names = set(known)
    for key in arguments:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ConfigError(f"{ENGINE_ARGS_FILE}: unknown engine argument {key!r}{hint}")
    return arguments


def resolve_paths(arguments: dict[str, Any], version_dir: Path) -> dict[str, Any]:
    """The arguments with relative paths made absolute where they exist below the version folder.

    What does not exist there stays as it is: it may be the name of a model on a hub.
    """
    resolved = dict(arguments)
    for key in _PATH_ARGUMENTS:
        value = resolved.get(key)
        if isinstance(value, str) and value:
            resolved[key] = resolve(value, version_dir)
    return resolved


def resolve(value: str, version_dir: Path) -> str:
    """``value`` as an absolute path if it is a relative one that exists below ``version_dir``; else unchanged."""
    candidate = version_dir / value
    return str(candidate.resolve()) if not Path(value).is_absolute() and candidate.exists() else value


def load_loras(version_dir: Path, *, required: bool = True) -> dict[str, str]:
    """Adapter name to path, from ``multi_lora.json``; relative paths resolved.

    Without the file there are none, unless it is ``required``, as it is where adapters come from nowhere else.

    Raises:
        ConfigError: the file is missing or is not an object of strings, or an adapter's folder has no adapter.
    """
    path = version_dir / MULTI_LORA_FILE
    if not path.is_file() and not required:
        return {}
    if not path.is_file():
        raise ConfigError(
            f"{MULTI_LORA_FILE} is missing: {ENGINE_ARGS_FILE} sets enable_lora, so adapters are expected there or in "
            "LORA_DIR"
        )
    adapters: dict[str, str] = {}
    for name, value in _read_json_object(path).items():
        if not isinstance(value, str):
            raise ConfigError(f"{MULTI_LORA_FILE}: {name}: expected a path or hub name as a string, got {value!r}")
        resolved = resolve(value, version_dir)
        if Path(resolved).is_absolute() and not (Path(resolved) / "adapter_config.json").is_file():
            raise ConfigError(f"{MULTI_LORA_FILE}: {name}: no adapter_config.json in {value!r}")
        if value.startswith((".", "lora/")) and not Path(resolved).is_absolute():
            raise ConfigError(f"{MULTI_LORA_FILE}: {name}: the folder {value!r} does not exist in the version folder")
        adapters[name] = resolved
    return adapters


def lora_enabled(arguments: Mapping[str, Any]) -> bool:
    """Whether ``enable_lora`` is set; the official backend takes a boolean or the string "true"."""
    return str(arguments.get("enable_lora", False)).lower() == "true"


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path.name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}: expected a JSON object, got {type(content).__name__}")
    return content
