"""The model's side of the processes that decode media: starting and ending them, and what passes between."""

from vllm_custom.media.workers.forks import ForkServer
from vllm_custom.media.workers.pool import DecoderPool

__all__ = ["DecoderPool", "ForkServer"]
