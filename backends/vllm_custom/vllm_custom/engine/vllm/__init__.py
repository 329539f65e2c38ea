"""vLLM, and all that is known of its versions: the only package that imports it.

Run with 0.32. What versions before 0.20 do otherwise is in :mod:`vllm_custom.engine.vllm.older`.
"""

from vllm_custom.engine.vllm.arguments import (
    check_devices,
    check_parsers,
    engine_argument_names,
    prepare_reasoning,
)
from vllm_custom.engine.vllm.connector import install_connector
from vllm_custom.engine.vllm.constraints import CompileProcess
from vllm_custom.engine.vllm.engine import VllmEngine
from vllm_custom.engine.vllm.host import PROGRAM as HOST_PROGRAM
from vllm_custom.engine.vllm.host import attached, guest_client
from vllm_custom.engine.vllm.nodes import bound_waits, run_further_node
from vllm_custom.engine.vllm.replacement import EngineReplacement
from vllm_custom.engine.vllm.start_failures import start_failure
from vllm_custom.engine.vllm.starting import start_cores_quickly

__all__ = [
    "HOST_PROGRAM",
    "CompileProcess",
    "EngineReplacement",
    "VllmEngine",
    "attached",
    "bound_waits",
    "check_devices",
    "check_parsers",
    "engine_argument_names",
    "guest_client",
    "install_connector",
    "prepare_reasoning",
    "run_further_node",
    "start_cores_quickly",
    "start_failure",
]
