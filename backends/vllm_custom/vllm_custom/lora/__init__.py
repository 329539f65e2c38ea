"""LoRA adapters by name: those of multi_lora.json, and those found in LORA_DIR."""

from vllm_custom.lora.adapters import LoraAdapters
from vllm_custom.lora.folder import LoraFolder

__all__ = ["LoraAdapters", "LoraFolder"]
