"""How much memory a model needs: its weights, and the KV cache of one request as long as max_model_len.

KV cache per token = 2 (key and value) x layers x KV heads x head size x bytes of its type; for multi-head latent
attention, layers x (kv_lora_rank + qk_rope_head_dim) x bytes. Sliding windows and state-space layers need less: the
figure is the most that it can be. Activations and CUDA graphs come on top, and differ from model to model.
"""

from dataclasses import dataclass
from typing import Any

GIB = 1024**3
# vLLM's own default.
UTILIZATION = 0.92
_STRETCHED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True)
class Need:
    """Per GPU, in bytes."""

    weights: int
    kv_per_token: int
    max_model_len: int

    @property
    def kv_cache(self) -> int:
        return self.kv_per_token * self.max_model_len

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache

    def longest(self, budget: int) -> int:
        """The longest request that fits into ``budget`` bytes next to the weights; 0 where none does."""
        return max(0, (budget - self.weights) // self.kv_per_token) if self.kv_per_token else self.max_model_len


def need_of(config: dict[str, Any], engine_args: dict[str, Any], weights: int, max_model_len: int) -> Need | None:
    """None where config.json does not describe a transformer with a KV cache."""
    parallel = int(engine_args.get("tensor_parallel_size", 1)) * int(engine_args.get("pipeline_parallel_size", 1))
    per_token = kv_bytes_per_token(config, engine_args)
    if per_token is None:
        return None
    return Need(weights // parallel, -(-per_token // parallel), max_model_len)


def kv_bytes_per_token(config: dict[str, Any], engine_args: dict[str, Any]) -> int | None:
    """Of all GPUs together; ``config`` is the language model's part of config.json."""
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if not isinstance(layers, int) or not isinstance(heads, int):
        return None
    size = _element_bytes(config, engine_args)
    rank = config.get("kv_lora_rank")
    if isinstance(rank, int):
        return layers * (rank + int(config.get("qk_rope_head_dim") or 0)) * size
    kv_heads = config.get("num_key_value_heads") or heads
    # With fewer KV heads than GPUs each GPU holds one of its own.
    kv_heads = max(int(kv_heads), int(engine_args.get("tensor_parallel_size", 1)))
    head_size = config.get("head_dim") or int(config.get("hidden_size") or 0) // heads
    return 2 * layers * kv_heads * int(head_size) * size


def _element_bytes(config: dict[str, Any], engine_args: dict[str, Any]) -> int:
    cache = str(engine_args.get("kv_cache_dtype", "auto"))
    if cache.startswith(("fp8", "int8")):
        return 1
    names = (cache, engine_args.get("dtype"), config.get("dtype"), config.get("torch_dtype"))
    return next((_BYTES[str(name)] for name in names if str(name) in _BYTES), 2)


def longest_context(config: dict[str, Any]) -> int | None:
    """What the model was made for, with the stretching that config.json asks for; None where it does not say."""
    lengths = [config.get(key) for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")]
    found = [length for length in lengths if isinstance(length, int)]
    if not found:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    # With these max_position_embeddings is the length after stretching.
    factor = 1 if kind in _STRETCHED else scaling.get("factor") or 1
    return int(min(found) * factor)


def read_length(value: object) -> int | None:
    """max_model_len of model.json; None where vLLM chooses. Raises ValueError for what is no number."""
    return None if value is None or value in (-1, "auto") else int(str(value))
