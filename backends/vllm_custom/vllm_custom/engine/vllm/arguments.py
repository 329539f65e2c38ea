"""model.json's engine arguments, and parsers by name: what is looked at before the engine starts."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from vllm_custom.engine.vllm.older import find
from vllm_custom.errors import ConfigError, listing
from vllm_custom.kernel import devices, nodes


def engine_argument_names() -> list[str]:
    """Every key that model.json may hold."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return [field.name for field in dataclasses.fields(AsyncEngineArgs)]


def check_devices(arguments: Mapping[str, Any], visible: str | None) -> None:
    """Compare what the engine is to have on this node with what there is.

    Args:
        arguments: of the engine.
        visible: what CUDA_VISIBLE_DEVICES will be; None where it stays as it is.

    Raises:
        ConfigError: there are too few devices.
    """
    from vllm import envs
    from vllm.platforms import current_platform

    if key := nodes.ray_argument(arguments):  # it knows what there is, on all nodes
        if not current_platform.ray_device_key:
            device = current_platform.device_type
            raise ConfigError(f"model.json: {key}: expected another than 'ray', which vLLM does not use on {device}")
        return
    if current_platform.is_cuda_alike():
        there = len(visible.split(",")) if visible else current_platform.device_count()
        devices.check_enough(arguments, there)
    elif current_platform.is_cpu() and envs.VLLM_CPU_OMP_THREADS_BIND == "auto":
        with contextlib.suppress(ImportError):  # older versions have it elsewhere
            from vllm.utils.cpu_resource_utils import get_visible_memory_node

            devices.check_enough_memory_nodes(arguments, len(get_visible_memory_node()))


def prepare_reasoning(arguments: dict[str, Any]) -> None:
    """Make ``structured_outputs_config`` of model.json vLLM's own object where a parser for reasoning is given too.

    vLLM 0.32 writes the parser's name into it before it turns JSON objects into its own.

    Raises:
        ConfigError: vLLM refuses its content.
    """
    given = arguments.get("structured_outputs_config")
    if not arguments.get("reasoning_parser") or not isinstance(given, dict):
        return
    from vllm.config import StructuredOutputsConfig

    try:
        arguments["structured_outputs_config"] = StructuredOutputsConfig(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.json: structured_outputs_config: {error}") from error


def check_parsers(tool_call_parser: str, reasoning_parser: str) -> None:
    """Refuse names of parsers that this vLLM does not have.

    Raises:
        ConfigError: names the parameter, and those there are.
    """
    from vllm.reasoning import ReasoningParserManager

    tools = find("ToolParserManager", "vllm.tool_parsers", "vllm.entrypoints.openai.tool_parsers")
    for parameter, name, manager in (
        ("TOOL_CALL_PARSER", tool_call_parser, tools),
        ("REASONING_PARSER", reasoning_parser, ReasoningParserManager),
    ):
        known = _registered(manager)
        if name and name not in known:
            raise ConfigError(f"config.pbtxt: parameter {parameter}: expected one of {listing(known)}, got {name!r}")


def _registered(manager: Any) -> list[str]:
    if hasattr(manager, "list_registered"):
        return list(manager.list_registered())
    known = (getattr(manager, name, {}) for name in ("tool_parsers", "reasoning_parsers"))  # as in vLLM 0.11.0
    return sorted(name for parsers in known for name in parsers)
