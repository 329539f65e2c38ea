"""vLLM's engine in a process of its own, and the AsyncLLM of a front that uses it."""

from vllm_custom.engine.vllm.host.attach import attached, guest_client

PROGRAM = f"{__name__}.program"

__all__ = ["PROGRAM", "attached", "guest_client"]
