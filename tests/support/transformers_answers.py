"""Greedy answers of transformers itself: ``transformers_answers.py WEIGHTS CASES`` prints a JSON list of texts.

CASES is a JSON list of {"image": file, "question": text}. A process of its own, so that torch is loaded apart from
the tests.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

MAX_NEW_TOKENS = 256


def main(weights: str, cases: str) -> None:
    processor = AutoProcessor.from_pretrained(weights)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(weights, dtype=torch.float32).eval()
    texts = []
    for case in json.loads(Path(cases).read_text()):
        content = [{"type": "image"}, {"type": "text", "text": case["question"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        image = Image.open(case["image"]).convert("RGB")
        inputs = processor(text=[prompt], images=[image], return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        texts.append(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    print(json.dumps(texts))


if __name__ == "__main__":
    main(*sys.argv[1:])
