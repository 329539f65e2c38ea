"""`model.json`: vLLM's engine arguments, nothing else."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from vllm_backend_lib.errors import ModelLoadError, shorten
from vllm_backend_lib.jsontext import load_object

ENGINE_ARGS_FILENAME = "model.json"


def read_engine_config(model_dir: Path) -> dict[str, Any]:
    """The content of `model.json`. Raises ModelLoadError naming the file and what is wrong with it."""
    path = model_dir / ENGINE_ARGS_FILENAME
    if not path.is_file():
        raise ModelLoadError(f"{path}: file not found; expected vLLM's engine arguments as a JSON object")
    return load_object(path)


def build_engine_args(config: dict[str, Any], path: Path) -> Any:
    """vLLM's AsyncEngineArgs. Raises ModelLoadError naming unknown keys, with the nearest known ones."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = [field.name for field in dataclasses.fields(AsyncEngineArgs) if field.init]
    check_known_keys(config, known, path)
    try:
        return AsyncEngineArgs(**config)
    except Exception as error:
        raise ModelLoadError(f"{path}: vLLM refuses these engine arguments: {error}") from error


def check_known_keys(config: dict[str, Any], known: list[str], path: Path) -> None:
    """Raises ModelLoadError where `config` has a key that is not in `known`."""
    unknown = [key for key in config if key not in known]
    if not unknown:
        return
    complaints = []
    for key in unknown:
        close = difflib.get_close_matches(key.replace("-", "_"), known, n=3)
        complaints.append(f"{key!r} (did you mean {', '.join(close)}?)" if close else repr(key))
    raise ModelLoadError(f"{path}: not an engine argument of this vLLM: {'; '.join(complaints)}")


def flag(config: dict[str, Any], key: str, path: Path) -> bool:
    """A truth value of `model.json`, which may be written as a string; absent means false."""
    value = config.get(key)
    if value is None:
        return False
    word = str(value).lower()
    if isinstance(value, bool | str) and word in ("true", "false"):
        return word == "true"
    raise ModelLoadError(f"{path}: {key!r}: expected true or false, got {shorten(value)}")


def device_count(config: dict[str, Any], path: Path) -> int:
    """How many devices the engine arguments ask for."""
    count = 1
    for key in ("tensor_parallel_size", "pipeline_parallel_size"):
        value = config.get(key, 1)
        try:
            count *= int(value)
        except (TypeError, ValueError) as error:
            raise ModelLoadError(f"{path}: {key!r}: expected a positive integer, got {shorten(value)}") from error
    return count


def visible_device(number: int, visible: str | None) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for Triton's GPU `number`, which counts within the server's own `visible`.

    Raises ModelLoadError where the server does not see so many.
    """
    if not visible:
        return str(number)
    devices = [device.strip() for device in visible.split(",")]
    if number >= len(devices):
        raise ModelLoadError(
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
        raise ModelLoadError(f"config.pbtxt: parameters: {name}: expected true or false, got {shorten(text)}")
    return word == "true"
