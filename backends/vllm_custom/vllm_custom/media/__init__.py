"""Where media come from, what is allowed, and how they are decoded; never on the engine's event loop."""

from vllm_custom.media.handles import HandleTable
from vllm_custom.media.loader import DecodedMedia, MediaLoader
from vllm_custom.media.metrics import MediaMetrics, ignore, log_refusals
from vllm_custom.media.sampling import FrameSampling

__all__ = [
    "DecodedMedia",
    "FrameSampling",
    "HandleTable",
    "MediaLoader",
    "MediaMetrics",
    "ignore",
    "log_refusals",
]
