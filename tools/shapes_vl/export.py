"""Writes a folder that transformers and vLLM load: weights, configurations, processors, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tools.shapes_vl import model, vision
from tools.shapes_vl.model import Weights
from tools.shapes_vl.packing import TEMPORAL_PATCH, TOKENS_PER_SECOND
from tools.shapes_vl.tokenizer import MAX_TOKENS, VOCABULARY_SIZE, save_tokenizer

WEIGHTS_FILE = "model.safetensors"


def save_model(weights: Weights, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights in bfloat16 and everything around them to `folder`."""
    save_tokenizer(tokenizer, folder)
    stored = {name: value.detach().cpu().bfloat16().contiguous() for name, value in weights.items()}
    save_file(stored, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    ids = {name: _token_id(tokenizer, f"<|{name}|>") for name in _NAMED_TOKENS}
    _write(folder / "config.json", _config(ids))
    stops = {"eos_token_id": [ids["im_end"], ids["endoftext"]], "pad_token_id": ids["endoftext"]}
    _write(folder / "generation_config.json", stops)
    pixels = {"min_pixels": vision.MIN_PIXELS, "max_pixels": vision.MAX_PIXELS}
    video_pixels = {"min_pixels": vision.MIN_PIXELS, "max_pixels": vision.MAX_VIDEO_PIXELS}
    image = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    _write(folder / "preprocessor_config.json", image | _processing(**pixels))
    _write(folder / "video_preprocessor_config.json", video | _processing(**video_pixels))


def load_weights(folder: Path) -> Weights:
    """The weights of a model folder, in float32."""
    return {name: value.float() for name, value in load_file(folder / WEIGHTS_FILE).items()}


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


_NAMED_TOKENS = ("endoftext", "im_end", "image_pad", "video_pad", "vision_start", "vision_end")


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer has no {token}")
    return number


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def _processing(min_pixels: int, max_pixels: int) -> dict[str, Any]:
    return {
        # Both spellings: releases of transformers read one or the other. The sizes are areas in pixels.
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        "patch_size": vision.PATCH_PX,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": vision.MERGE,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _config(ids: dict[str, int]) -> dict[str, Any]:
    # Releases of transformers before 5 read rope_theta and rope_scaling. Given rope_scaling without rope_theta, later
    # ones would set the base to a million.
    section = list(model.MROPE_SECTION)
    rope = {
        "rope_parameters": {"rope_type": "default", "rope_theta": model.ROPE_THETA, "mrope_section": section},
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": section},
        "rope_theta": model.ROPE_THETA,
    }
    tokens = {"bos_token_id": ids["endoftext"], "eos_token_id": ids["im_end"], "pad_token_id": ids["endoftext"]}
    text = {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": model.WIDTH,
        "intermediate_size": model.MLP,
        "num_hidden_layers": model.DEPTH,
        "num_attention_heads": model.HEADS,
        "num_key_value_heads": model.KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_TOKENS,
        "rms_norm_eps": model.NORM_EPS,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        **rope,
        "dtype": "bfloat16",
    }
    vision_tower = {
        "model_type": "qwen2_5_vl_vision",
        "depth": model.VISION_DEPTH,
        "hidden_size": model.VISION_WIDTH,
        "intermediate_size": model.VISION_MLP,
        "num_heads": model.VISION_HEADS,
        "hidden_act": "silu",
        "in_channels": 3,
        "in_chans": 3,
        "out_hidden_size": model.WIDTH,
        "patch_size": vision.PATCH_PX,
        "spatial_patch_size": vision.PATCH_PX,
        "spatial_merge_size": vision.MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "tokens_per_second": TOKENS_PER_SECOND,
        "window_size": vision.WINDOW_UNITS * vision.UNIT_PX,
        "fullatt_block_indexes": list(model.FULL_ATTENTION_BLOCKS),
    }
    architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return {
        "architectures": architectures,
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        **tokens,
        # transformers 4 looks for it here.
        "text_config": {"architectures": architectures} | text | tokens,
        "vision_config": vision_tower,
    }
