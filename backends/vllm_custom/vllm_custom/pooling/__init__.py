"""Pooling models: embeddings and scores in place of text."""

from vllm_custom.pooling.output import PooledOutput
from vllm_custom.pooling.params import PoolingBuilder, reject_pooling_request
from vllm_custom.pooling.scoring import PairScorer, RenderedPairs

__all__ = ["PairScorer", "PooledOutput", "PoolingBuilder", "RenderedPairs", "reject_pooling_request"]
