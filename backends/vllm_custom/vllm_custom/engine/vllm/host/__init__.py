"""vLLM's engine in a process of its own, and the AsyncLLM of a front that uses it."""

from vllm_custom.engine.vllm.host.attach import attached

PROGRAM = f"{__name__}.program"

__all__ = ["PROGRAM", "attached"]
