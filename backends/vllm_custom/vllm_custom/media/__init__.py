"""Where media come from, what is allowed, and how processes of their own decode them."""

from vllm_custom.decoders.sampling import FrameSampling
from vllm_custom.media.handles import HandleTable
from vllm_custom.media.loader import DecodedMedia, LoadedMedia, MediaElement, MediaLoader
from vllm_custom.media.metrics import MediaMetrics, ignore, log_refusals

__all__ = [
    "DecodedMedia",
    "FrameSampling",
    "HandleTable",
    "LoadedMedia",
    "MediaElement",
    "MediaLoader",
    "MediaMetrics",
    "ignore",
    "log_refusals",
]
