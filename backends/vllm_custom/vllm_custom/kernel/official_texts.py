"""Messages and log lines that tests and scripts for the official vLLM backend read, word for word."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import shorten

# Of a request.
STREAM_WITH_PROMPT = "Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed."
NO_ADAPTERS = "LoRA feature is not enabled."
UNHEALTHY = "Model is unavailable due to unhealthy vLLM engine"
# In the log, of a client that has gone.
CANCELLING = "[vllm] Cancelling the request"
CANCELLED = "[vllm] Successfully cancelled the request"


def unknown_adapter(name: str, known: Iterable[str]) -> str:
    """For a request with the adapter ``name``, which is none of ``known``."""
    shown = shorten(name)
    plain = name if shown == f"'{name}'" else shown
    return f"LoRA {plain} is not supported, we currently support {sorted(known)}"
