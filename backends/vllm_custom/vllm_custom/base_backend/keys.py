"""Keys of config.pbtxt and model.json that the backend that this one builds on reads, by its sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_custom.base_backend.loader import find_base
from vllm_custom.contract.config import CONFIG_PARAMETERS, PYTHON_BACKEND_PARAMETERS
from vllm_custom.errors import ConfigError

_OURS = PYTHON_BACKEND_PARAMETERS.union(spec.name for spec in CONFIG_PARAMETERS)


@dataclass(frozen=True)
class BaseKeys:
    """``parameters`` of config.pbtxt, and keys of model.json."""

    parameters: frozenset[str] = frozenset()
    engine_arguments: frozenset[str] = frozenset()

    def not_ours(self, model_config: Mapping[str, Any]) -> tuple[str, ...]:
        """The parameters in Triton's ``model_config`` that only the base knows."""
        given = model_config.get("parameters", {})
        return tuple(sorted(key for key in given if key in self.parameters and key not in _OURS))


def without(model_config: Mapping[str, Any], parameters: tuple[str, ...]) -> dict[str, Any]:
    """Triton's ``model_config`` less these parameters."""
    given = model_config.get("parameters", {})
    return {**model_config, "parameters": {key: value for key, value in given.items() if key not in parameters}}


def keys_of_base(model_config: Mapping[str, Any], backend_dir: Path) -> BaseKeys:
    """What the base that a model is to be loaded on knows. Without a base, nothing: the load says so."""
    entry = model_config.get("parameters", {}).get("VLLM_BACKEND_DIR", {})
    try:
        return keys_in(find_base(backend_dir, str(entry.get("string_value", "")).strip()))
    except ConfigError:
        return BaseKeys()


def keys_in(directory: Path) -> BaseKeys:
    """Every key that the sources in ``directory`` name. Those that cannot be read name none."""
    parameters: set[str] = set()
    engine_arguments: set[str] = set()
    for path in (directory / "model.py", *directory.glob("utils/**/*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            # A key is looked up by a constant, or by the name of one.
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_parameter(node.value):
                parameters.add(node.value)
            engine_arguments.update(_engine_arguments(node))
    return BaseKeys(frozenset(parameters), frozenset(engine_arguments))


def _is_parameter(text: str) -> bool:
    return text.isidentifier() and text.isupper()


def _engine_arguments(node: ast.AST) -> Iterator[str]:
    """Constants in an expression that looks something up in the base's dict of model.json, whatever its kind."""
    if isinstance(node, ast.Subscript):
        looked_in, asked = node.value, [node.slice]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        looked_in, asked = node.func.value, node.args[:1]
    elif isinstance(node, ast.Compare):
        looked_in, asked = node.comparators[0], [node.left]
    else:
        return
    if "vllm_engine_config" in ast.unparse(looked_in):
        for part in asked:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value
