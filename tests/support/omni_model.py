"""A model that hears and sees, and what transformers answers with it: ``omni_model.py FOLDER CASES``.

Writes a tiny Qwen2.5-Omni with random weights to FOLDER, and prints a JSON list with the token ids of transformers'
greedy answers to CASES, a JSON list of {"audio": .npy file of samples at 16 kHz, "question": text}. They mean nothing,
but they depend on the sound. A process of its own, so that torch is loaded apart from the tests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniConfig,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessorFast,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from tools.installer.paths import CHECKOUT

RATE = 16_000
MAX_NEW_TOKENS = 12
SHAPES = CHECKOUT / "model_repository/shapes_vl/1/weights"
# The names that Qwen2.5-Omni has for them.
SPECIAL_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
HEARING = "{%- elif part['type'] == 'audio' -%}\n{{- '<|audio_bos|><|AUDIO|><|audio_eos|>' -}}\n"


def chat_template() -> str:
    """That of shapes_vl with Qwen2.5-Omni's names, and for sound."""
    text = (SHAPES / "chat_template.jinja").read_text(encoding="utf-8")
    names = {"<|vision_start|>": "<|vision_bos|>", "<|vision_end|>": "<|vision_eos|>"}
    for ours, theirs in (names | {"<|image_pad|>": "<|IMAGE|>", "<|video_pad|>": "<|VIDEO|>"}).items():
        text = text.replace(ours, theirs)
    otherwise = "{%- else -%}\n{{- part['text']"
    assert text.count(otherwise) == 1
    return text.replace(otherwise, HEARING + otherwise)


def make_processor() -> Qwen2_5OmniProcessor:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(SHAPES / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS,
        model_max_length=4096,
    )
    small = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessorFast(size=small),
        video_processor=Qwen2VLVideoProcessor(size=small),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, sampling_rate=RATE, n_fft=400, hop_length=160),
        tokenizer=tokenizer,
        chat_template=chat_template(),
    )


def make_model(processor: Qwen2_5OmniProcessor) -> Qwen2_5OmniThinkerForConditionalGeneration:
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL_TOKENS.items()}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 12, 12]},
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    audio = {
        "d_model": 64,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 128,
        "output_dim": 128,
    }
    vision = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5OmniConfig(
        thinker_config={
            "text_config": text,
            "audio_config": audio,
            "vision_config": vision,
            "audio_token_index": ids["audio_token"],
            "image_token_index": ids["image_token"],
            "video_token_index": ids["video_token"],
            "audio_start_token_id": ids["audio_bos_token"],
            "audio_end_token_id": ids["audio_eos_token"],
            "vision_start_token_id": ids["vision_bos_token"],
            "vision_end_token_id": ids["vision_eos_token"],
            "tie_word_embeddings": False,
            "pad_token_id": tokenizer.pad_token_id,
        },
        enable_audio_output=False,
        architectures=["Qwen2_5OmniModel"],
        dtype="float32",
    )
    torch.manual_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config).to(torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # far enough from zero for the answers to differ clearly
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
    model.full_config = config
    return model


def main(folder: str, cases: str) -> None:
    processor = make_processor()
    model = make_model(processor)
    processor.save_pretrained(folder)
    model.full_config.save_pretrained(folder)
    save_file(
        {f"thinker.{name}": value.contiguous() for name, value in model.state_dict().items()},
        f"{folder}/model.safetensors",
        {"format": "pt"},
    )
    answers = []
    for case in json.loads(Path(cases).read_text()):
        content = [{"type": "audio"}, {"type": "text", "text": case["question"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=prompt, audio=[np.load(case["audio"])], return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        answers.append(tokens[0, inputs["input_ids"].shape[1] :].tolist())
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
