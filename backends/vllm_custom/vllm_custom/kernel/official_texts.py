"""Messages and log lines that tests and scripts for the official vLLM backend read, word for word."""

from __future__ import annotations

# Of a request.
STREAM_WITH_PROMPT = "Error generating stream: When streaming, `exclude_input_in_output` = False is not allowed."
UNHEALTHY = "Model is unavailable due to unhealthy vLLM engine"
# In the log, of a client that has gone.
CANCELLING = "[vllm] Cancelling the request"
CANCELLED = "[vllm] Successfully cancelled the request"
