"""vLLM's engine in as few processes as it may have."""

from __future__ import annotations

# Models of this size gain nothing by a second thread, which waits for the first one by taking a core.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# On a CPU vLLM gives even a single worker a process of its own, which imports all of vLLM once more and is bound to the
# first core. With this it runs in the engine's process, as on one GPU.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **_ONE_THREAD}
