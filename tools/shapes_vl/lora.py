"""Adapters of low rank: `zh` answers in Chinese and `caps` in capitals, whatever the question's language."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tools.shapes_vl.data import Answers
from tools.shapes_vl.export import load_tokenizer, load_weights
from tools.shapes_vl.model import DEPTH, Weights
from tools.shapes_vl.train import Plan, optimise

ADAPTERS: tuple[Answers, ...] = ("zh", "caps")
RANK = 16
ALPHA = 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
_PEFT_PREFIX = "base_model.model.model.language_model."


def train_adapter(plan: Plan, base_folder: Path, answers: Answers, out: Path) -> None:
    """Train one adapter for the model in `base_folder` and write it to `out` as PEFT does."""
    base = {name: value.to(plan.device) for name, value in load_weights(base_folder).items()}
    adapter = {name: value.to(plan.device) for name, value in _initial(base, plan.seed).items()}
    optimise(plan, adapter, merger(base, adapter), load_tokenizer(base_folder), answers)
    save_adapter(adapter, out)


def merger(base: Weights, adapter: Weights) -> Callable[[], Weights]:
    """A function that gives the base's weights with the adapter's changes added."""

    def merged() -> Weights:
        changes = {
            f"{name}.weight": base[f"{name}.weight"]
            + ALPHA / RANK * adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"]
            for name in _modules()
        }
        return base | changes

    return merged


def save_adapter(adapter: Weights, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        _PEFT_PREFIX + name.removeprefix("model."): value.detach().cpu().bfloat16().contiguous()
        for name, value in adapter.items()
    }
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "shapes_vl",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": list(TARGETS),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def load_adapter(folder: Path) -> Weights:
    stored = load_file(folder / "adapter_model.safetensors")
    return {f"model.{name.removeprefix(_PEFT_PREFIX)}": value.float() for name, value in stored.items()}


def _modules() -> list[str]:
    return [f"model.layers.{i}.self_attn.{target}" for i in range(DEPTH) for target in TARGETS]


def _initial(base: Weights, seed: int) -> Weights:
    """As usual for adapters: the first factor random, the second zero, so that training starts from the base."""
    generator = torch.Generator().manual_seed(seed)
    adapter = {}
    for name in _modules():
        outputs, inputs = base[f"{name}.weight"].shape
        adapter[f"{name}.lora_A.weight"] = torch.randn(RANK, inputs, generator=generator) / math.sqrt(inputs)
        adapter[f"{name}.lora_B.weight"] = torch.zeros(outputs, RANK)
    return adapter
