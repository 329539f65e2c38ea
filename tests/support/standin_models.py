"""A model repository for the stand-in's tests: tiny random models, and models that must not load.

Run as a program, in a process of its own: it needs torch and transformers, whose memory the tests have no use for.

    python -m tests.support.standin_models FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HIDDEN = 64
HEADS = 2
LAYERS = 2
LORA_RANK = 4
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CORPUS = (
    "Describe the image.",
    "How many shapes are there?",
    "a red circle and a blue square",
    "system user assistant",
)

ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 16_384,
    "gpu_memory_utilization": 0.2,
}


def make_tokenizer(*more_tokens: str) -> Any:
    """A byte-level BPE tokenizer with Qwen's special tokens and more: any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, *more_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=ENGINE_ARGS["max_model_len"],
    )


def make_config(tokenizer: Any) -> Any:
    """A Qwen2.5-VL of two small layers."""
    from transformers import Qwen2_5_VLConfig

    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 16_384,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": LAYERS,
        "hidden_size": HIDDEN,
        "num_heads": HEADS,
        "intermediate_size": 2 * HIDDEN,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def make_model(folder: Path) -> None:
    """Random weights, the same each time, with the processor's and the tokenizer's files."""
    import torch
    from transformers import (
        GenerationConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = make_tokenizer()
    config = make_config(tokenizer)
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    text = config.text_config
    model.generation_config = GenerationConfig(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id)
    model.save_pretrained(folder)
    limits = {"min_pixels": 56 * 56, "max_pixels": 448 * 448}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**limits),
    ).save_pretrained(folder)


def make_adapter(folder: Path) -> None:
    """A LoRA adapter strong enough to change the answers."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    weights = {}
    for layer in range(LAYERS):
        for target in targets:
            prefix = f"base_model.model.model.language_model.layers.{layer}.self_attn.{target}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(LORA_RANK, HIDDEN)
            weights[f"{prefix}.lora_B.weight"] = torch.randn(HIDDEN, LORA_RANK)
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": LORA_RANK,
        "lora_alpha": 4 * LORA_RANK,
        "bias": "none",
        "target_modules": list(targets),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def add_model(repository: Path, name: str, engine_args: dict[str, Any] | str | None, config: str = "") -> Path:
    """A model of the backend `vllm`; engine arguments that are text are written as they are."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(f'backend: "vllm"\n{config}')
    if engine_args is not None:
        text = engine_args if isinstance(engine_args, str) else json.dumps(engine_args, indent=2)
        (version / "model.json").write_text(text)
    return version


def parameter(name: str, value: str) -> str:
    """A line of config.pbtxt."""
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'


def make_repository(folder: Path) -> None:
    """Weights, adapters, and a model of Triton for every way to load."""
    weights, adapter, repository = folder / "weights", folder / "adapter", folder / "repository"
    make_model(weights)
    make_adapter(adapter)
    good = {"model": str(weights), **ENGINE_ARGS}

    text = {**good, "enable_lora": "true", "max_lora_rank": 8, "limit_mm_per_prompt": {"image": 2}}
    options = parameter("REPORT_CUSTOM_METRICS", "true") + parameter("ENABLE_VLLM_HEALTH_CHECK", "true")
    version = add_model(repository, "text", text, options)
    # A relative path is taken for a name on the hub, and only fails when it is used.
    adapters = {"strong": str(adapter), "broken": "no/such_adapter"}
    (version / "multi_lora.json").write_text(json.dumps(adapters))

    add_model(repository, "embed", {**good, "runner": "pooling", "convert": "embed"})
    add_model(repository, "no_model_json", None)
    add_model(repository, "bad_json", '{\n  "model": "x",\n  "dtype" "float32"\n}')
    add_model(repository, "unknown_argument", {**good, "max_model_length": 100})
    add_model(repository, "not_decoupled", good, "model_transaction_policy { decoupled: false }\n")
    add_model(repository, "bad_parameter", good, parameter("REPORT_CUSTOM_METRICS", "yes"))
    add_model(repository, "no_adapters", {**good, "enable_lora": True})
    add_model(repository, "no_weights", {**good, "model": str(folder / "nothing")})


if __name__ == "__main__":
    make_repository(Path(sys.argv[1]))
