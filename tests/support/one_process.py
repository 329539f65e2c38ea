"""vLLM's engine in as few processes as it may have."""

from __future__ import annotations

# On a CPU vLLM gives even a single worker a process of its own, which imports all of vLLM once more and is bound to the
# first core. With this it runs in the engine's process, as on one GPU.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
