"""Constraints compiled by the engine's own compilers before the engine sees them, in a process with limits."""

from vllm_custom.engine.vllm.constraints.checker import start_checker
from vllm_custom.engine.vllm.constraints.client import CompileProcess
from vllm_custom.engine.vllm.constraints.grammars import guard_generate

__all__ = ["CompileProcess", "guard_generate", "start_checker"]
