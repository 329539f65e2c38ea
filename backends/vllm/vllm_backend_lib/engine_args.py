"""The engine's arguments: from `model.json`, and what config.pbtxt says of devices."""

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


def device_count(config: dict[str, Any]) -> int:
    """How many devices the engine arguments ask for."""
    count = 1
    for key in ("tensor_parallel_size", "pipeline_parallel_size"):
        value = config.get(key, 1)
        try:
            count *= int(value)
        except (TypeError, ValueError) as error:
            raise errors.ConfigError(
                f"{model_files.ENGINE_ARGS_FILE}: {key}: expected a positive integer, got {errors.shorten(value)}"
            ) from error
    return count


def visible_device(number: int, visible: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for Triton's GPU `number`, which counts within the server's own `visible`.

    Raises ConfigError where the server does not see so many.
    """
    if not visible:
        return str(number)
    devices = [device.strip() for device in visible.split(",")]
    if number >= len(devices):
        raise errors.ConfigError(
            f"config.pbtxt: instance_group.gpus: expected 0 to {len(devices) - 1} (tritonserver runs with "
            f"CUDA_VISIBLE_DEVICES={visible}), got {number}"
        )
    return devices[number]


def bool_parameter(parameters: dict[str, Any], name: str) -> bool:
    """A truth value among the `parameters` of config.pbtxt; absent means false."""
    if name not in parameters:
        return False
    text = str(parameters[name].get("string_value", ""))
    word = text.strip().lower()
    if word not in ("true", "false"):
        raise errors.ConfigError(f"config.pbtxt: parameter {name}: expected true or false, got {errors.shorten(text)}")
    return word == "true"
