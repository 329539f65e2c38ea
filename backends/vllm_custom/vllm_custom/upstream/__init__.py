"""Find, identify, patch and load the backend that this one builds on; the only rooms that know its internals."""

from vllm_custom.upstream.adapter import UpstreamAdapter, with_current_hooks
from vllm_custom.upstream.loader import LoadedUpstream, load_upstream

__all__ = ["LoadedUpstream", "UpstreamAdapter", "load_upstream", "with_current_hooks"]
