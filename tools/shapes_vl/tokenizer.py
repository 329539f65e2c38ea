"""The tokenizer: byte-level BPE with Qwen's special tokens, trained on the model's own questions and answers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tools.shapes_vl import tasks
from tools.shapes_vl.chat import CHAT_TEMPLATE, DEFAULT_SYSTEM, END
from tools.shapes_vl.draw import DIRECTIONS, KINDS
from tools.shapes_vl.palette import COLOURS

VOCABULARY_SIZE = 512
MAX_TOKENS = 32768
CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEXT_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
# Qwen splits text this way: contractions, words with one leading mark, single digits, runs of marks, white space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(seed: int = 0) -> Tokenizer:
    """Learn the merges. The vocabulary is 256 bytes, the merges and the special tokens, 512 entries at most."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(CONTROL_TOKENS) - len(TEXT_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(Random(seed)), trainer)
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    tokenizer.add_tokens(list(TEXT_TOKENS))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2TokenizerFast",
        "model_max_length": MAX_TOKENS,
        "eos_token": END,
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "extra_special_tokens": {},
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")


def _corpus(rng: Random) -> list[str]:
    lines = [DEFAULT_SYSTEM, "system\n", "user\n", "assistant\n"] * 60
    for skill in tasks.QUESTIONS.values():
        lines += [text for texts in skill.values() for text in texts] * 60
    lines += [f"{text}{tasks.CAPITALS_SUFFIX}" for text in tasks.QUESTIONS["describe"]["en"]] * 20
    for _ in range(1500):
        shapes = [(rng.choice(tuple(COLOURS)), rng.choice(KINDS)) for _ in range(rng.randint(1, 4))]
        for language in tasks.LANGUAGES:
            lines += [
                tasks.describe(shapes, language),
                tasks.describe_each([shapes[:1], shapes[1:] or shapes], language),
            ]
        lines.append(tasks.describe(shapes).upper())
    for name in DIRECTIONS:
        lines += [tasks.direction(name, language) for language in tasks.LANGUAGES] * 60
        lines += [name.upper()] * 30
    for _ in range(60):
        lines += [text for language in tasks.LANGUAGES for text in tasks.sum_questions(2, 3, language)]
    return lines
