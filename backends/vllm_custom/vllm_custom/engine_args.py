"""model.json and multi_lora.json before vLLM sees them: their keys, and paths, which start at the version folder."""

from __future__ import annotations

import ast
import importlib.util
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

# Where vLLM declares its engine arguments, and the class that has all of them.
_DECLARED_IN = "engine/arg_utils.py"
_DECLARED_BY = "AsyncEngineArgs"


def names_in_source() -> set[str]:
    """Every key that model.json may hold, read in vLLM's source: to import it takes seconds.

    Empty where vLLM is not installed, or declares them in another way.
    """
    spec = importlib.util.find_spec("vllm")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            source = ast.parse((Path(folder) / _DECLARED_IN).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        return _fields({node.name: node for node in source.body if isinstance(node, ast.ClassDef)}, _DECLARED_BY)
    return set()


def _fields(classes: dict[str, ast.ClassDef], name: str) -> set[str]:
    """Of a dataclass and those it inherits from; empty where one of these is not known."""
    if name not in classes:
        return set()
    inherited = [_fields(classes, ast.unparse(base)) for base in classes[name].bases]
    own = {
        node.target.id
        for node in classes[name].body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and "ClassVar" not in ast.unparse(node.annotation)
    }
    return own.union(*inherited) if all(inherited) else set()


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
