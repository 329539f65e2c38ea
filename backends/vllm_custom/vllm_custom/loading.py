"""What is read in addition to config.pbtxt when a model is loaded, by Triton or as a guest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_custom import engine_args
from vllm_custom.base_backend.keys import BaseKeys
from vllm_custom.contract.settings import Settings
from vllm_custom.engine import vllm as engine
from vllm_custom.kernel import model_files
from vllm_custom.serving.common import ModelFiles


def read_files(settings: Settings, version_dir: Path, keys: BaseKeys) -> ModelFiles:
    """All but the adapters.

    Args:
        settings: of config.pbtxt.
        version_dir: the folder of model.json.
        keys: that the base knows by itself.

    Raises:
        ConfigError: model.json, or what config.pbtxt names, is not as it should be.
    """
    arguments = model_files.read_engine_args(version_dir)
    model_files.check_engine_args(arguments, {*engine.engine_argument_names(), *keys.engine_arguments})
    engine.check_parsers(settings.tool_call_parser, settings.reasoning_parser)
    lora_enabled = model_files.lora_enabled(arguments)
    return ModelFiles(
        version_dir.name,
        settings.read_chat_template(version_dir),
        settings.find_lora_dir(version_dir, enable_lora=lora_enabled),
    )


def read_adapters(settings: Settings, version_dir: Path, arguments: Mapping[str, Any]) -> dict[str, str] | None:
    """multi_lora.json, which may be missing where LORA_DIR is set; None where the engine runs without LoRA.

    Raises:
        ConfigError: it is not as it should be.
    """
    if not model_files.lora_enabled(arguments):
        return None
    return engine_args.load_loras(version_dir, required=not settings.lora_dir)
