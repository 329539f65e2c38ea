"""Weights of a small random classifier, and what transformers itself gives for the tests of pooling models.

Run as a program, in a process of its own, so that torch is loaded apart from the tests:

    python -m tests.server.pooling_models FOLDER PICTURE

FOLDER gets `classifier/` and `expected.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2Config, Qwen2ForSequenceClassification

from tests.server.standin_models import make_tokenizer
from tools.installer.paths import DEFAULT_REPOSITORY

SHAPES_VL_WEIGHTS = DEFAULT_REPOSITORY / "shapes_vl/1/weights"
QUESTION = "Describe the image."
TEXTS = ("a red circle", "2+3=", "How many shapes are there?")
CLASSES = 3


def make_classifier(folder: Path) -> dict[str, list[float]]:
    """Save the weights; the probabilities of the classes for each text."""
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        num_labels=CLASSES,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = Qwen2ForSequenceClassification(config).to(torch.float32).eval()
    torch.nn.init.normal_(model.score.weight)  # far enough apart to tell the classes
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with torch.inference_mode():
        logits = {text: model(**tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS}
    return {text: torch.softmax(values, dim=-1).tolist() for text, values in logits.items()}


def hidden_states(picture: str) -> dict[str, list[list[float]]]:
    """The last hidden states of shapes_vl, [tokens, size], for each text and for a question about a picture."""
    processor = AutoProcessor.from_pretrained(SHAPES_VL_WEIGHTS)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(SHAPES_VL_WEIGHTS, dtype=torch.float32).model.eval()
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=False)
    inputs: dict[str, Any] = {text: processor(text=[text], return_tensors="pt") for text in TEXTS}
    image = Image.open(picture).convert("RGB")
    inputs[QUESTION] = processor(text=[prompt], images=[image], return_tensors="pt")
    with torch.inference_mode():
        return {text: model(**given).last_hidden_state[0].tolist() for text, given in inputs.items()}


def main(folder: str, picture: str) -> None:
    expected = {"classes": make_classifier(Path(folder) / "classifier"), "hidden": hidden_states(picture)}
    (Path(folder) / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(*sys.argv[1:])
