"""A model that writes down speech: ``whisper_model.py FOLDER`` writes a tiny Whisper with random weights there.

What it writes down means nothing, but it depends on the sound. A process of its own, so that torch is loaded apart from
the tests.
"""

from __future__ import annotations

import sys

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

RATE = 16_000
_END = "<|endoftext|>"
_RARELY = 0.5
_SECONDS, _STEPS_PER_SECOND = 30, 50
# The order of Whisper's own vocabulary behind the bytes, up to the times.
_SPECIAL = (
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)


def make_tokenizer() -> WhisperTokenizer:
    """One token for each byte, Whisper's special tokens, and its times."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    vocabulary[_END] = len(vocabulary)
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], model_max_length=448)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    times = [f"<|{step / _STEPS_PER_SECOND:.2f}|>" for step in range(_SECONDS * _STEPS_PER_SECOND + 1)]
    tokenizer.add_tokens(times)
    return tokenizer


def make_model(tokenizer: WhisperTokenizer) -> WhisperForConditionalGeneration:
    end = tokenizer.convert_tokens_to_ids(_END)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=128,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=[],
        begin_suppress_tokens=[],
        architectures=["WhisperForConditionalGeneration"],
        dtype="float32",
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_positions" not in name:  # for the answers to differ clearly
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
        model.model.decoder.embed_tokens.weight[end:] *= _RARELY  # most of what it writes is text
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    return model


def main(folder: str) -> None:
    tokenizer = make_tokenizer()
    WhisperProcessor(WhisperFeatureExtractor(sampling_rate=RATE), tokenizer).save_pretrained(folder)
    make_model(tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
