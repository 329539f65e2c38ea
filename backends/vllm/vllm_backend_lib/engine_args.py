"""The engine's arguments, from `model.json`, and the parameters of config.pbtxt."""

from __future__ import annotations

import dataclasses
from typing import Any

from vllm_backend_lib.kernel import errors, model_files


def build_engine_args(config: dict[str, Any]) -> Any:
    """vLLM's AsyncEngineArgs. Raises ConfigError naming an unknown key, with the nearest known one."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    model_files.check_engine_args(config, (field.name for field in dataclasses.fields(AsyncEngineArgs) if field.init))
    try:
        return AsyncEngineArgs(**config)
    except Exception as error:
        raise errors.ConfigError(
            f"{model_files.ENGINE_ARGS_FILE}: vLLM refuses these engine arguments: {error}"
        ) from error


def bool_parameter(parameters: dict[str, Any], name: str) -> bool:
    """A truth value among the `parameters` of config.pbtxt; absent means false."""
    if name not in parameters:
        return False
    text = str(parameters[name].get("string_value", ""))
    word = text.strip().lower()
    if word not in ("true", "false"):
        raise errors.ConfigError(f"config.pbtxt: parameter {name}: expected true or false, got {errors.shorten(text)}")
    return word == "true"
