"""Weights of small random models, and what transformers itself gives for the tests of pooling models.

Run as a program, in a process of its own, so that torch is loaded apart from the tests:

    python -m tests.support.pooling_models FOLDER PICTURE

FOLDER gets `classifier/`, `cross_encoder/` and `expected.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoProcessor,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from tests.support.standin_models import make_tokenizer
from tools.installer.paths import DEFAULT_REPOSITORY

SHAPES_VL_WEIGHTS = DEFAULT_REPOSITORY / "shapes_vl/1/weights"
QUESTION = "Describe the image."
TEXTS = ("a red circle", "2+3=", "How many shapes are there?")
CLASSES = 3
CLS, SEP = "[CLS]", "[SEP]"
QUERIES = ("a red circle", "How many shapes are there?")
DOCUMENTS = ("a blue square and a red circle", "2+3=", "Two shapes: a star, 三角形.", "x" * 90)
MAX_TOKENS = 256
KEPT_TOKENS = 24


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


def make_cross_encoder(folder: Path) -> dict[str, Any]:
    """Save the weights; tokens and logit of each pair of QUERIES and DOCUMENTS, and the logits of pairs cut short."""
    backend = make_tokenizer(CLS, SEP).backend_tokenizer
    # As BERT has it: the second text has a token type of its own.
    backend.post_processor = TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (CLS, SEP)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        num_labels=1,
        initializer_range=0.3,  # scores far enough apart to tell the pairs
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).to(torch.float32).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def score(query: str, document: str, **options: Any) -> dict[str, Any]:
        inputs = tokenizer(query, document, return_tensors="pt", **options)
        return {"tokens": inputs["input_ids"].shape[1], "logit": model(**inputs).logits.item()}

    cut: dict[str, Any] = {"truncation": True, "max_length": KEPT_TOKENS}
    with torch.inference_mode():
        return {
            query: {
                document: {"whole": score(query, document), "cut": score(query, document, **cut)}
                for document in DOCUMENTS
            }
            for query in QUERIES
        }


def hidden_states(picture: str) -> dict[str, list[list[float]]]:
    """The last hidden states of shapes_vl, [tokens, size], for each text and for a question about an image."""
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
    expected = {
        "classes": make_classifier(Path(folder) / "classifier"),
        "kept_tokens": KEPT_TOKENS,
        "pairs": make_cross_encoder(Path(folder) / "cross_encoder"),
        "hidden": hidden_states(picture),
    }
    (Path(folder) / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(*sys.argv[1:])
