"""Pooling models: embeddings and scores in place of text."""

from vllm_custom.pooling.output import PooledOutput
from vllm_custom.pooling.params import PoolingBuilder, check_generating

__all__ = ["PooledOutput", "PoolingBuilder", "check_generating"]
