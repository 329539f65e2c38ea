"""The engine: what is asked of it (protocol), and vLLM, which answers (the package vllm)."""

from vllm_custom.engine.protocol import Adapter, Engine, ModelFacts, PairScoring, RunOptions

__all__ = ["Adapter", "Engine", "ModelFacts", "PairScoring", "RunOptions"]
