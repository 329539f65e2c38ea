"""Relative paths in model.json and multi_lora.json, which start at the version folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_custom.errors import ConfigError
from vllm_custom.kernel.model_files import ADAPTERS_FILE, ENGINE_ARGS_FILE, read_adapters

# Engine arguments that name a file or folder, or else something on a model hub.
_PATH_ARGUMENTS = (
    "model",
    "tokenizer",
    "hf_config_path",
    "download_dir",
    "generation_config",
    "allowed_local_media_path",
)


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
    if not (version_dir / ADAPTERS_FILE).is_file():
        if not required:
            return {}
        raise ConfigError(
            f"{ADAPTERS_FILE} is missing: {ENGINE_ARGS_FILE} sets enable_lora, so adapters are expected there or in "
            "LORA_DIR"
        )
    adapters: dict[str, str] = {}
    for name, value in read_adapters(version_dir).items():
        resolved = resolve(value, version_dir)
        if Path(resolved).is_absolute() and not (Path(resolved) / "adapter_config.json").is_file():
            raise ConfigError(f"{ADAPTERS_FILE}: {name}: no adapter_config.json in {value!r}")
        if value.startswith((".", "lora/")) and not Path(resolved).is_absolute():
            raise ConfigError(f"{ADAPTERS_FILE}: {name}: the folder {value!r} does not exist in the version folder")
        adapters[name] = resolved
    return adapters
