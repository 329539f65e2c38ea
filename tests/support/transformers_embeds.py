"""What transformers' own vision tower makes of images: ``transformers_embeds.py WEIGHTS OUT.npz IMAGE...``

Writes image_embeds, FP32 [rows, hidden size], and image_grid_thw, INT64 [images, 3]. A process of its own, so that
torch is loaded apart from the tests.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration


def main(weights: str, out: str, *files: str) -> None:
    processor = AutoProcessor.from_pretrained(weights).image_processor
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(weights, dtype=torch.float32).eval()
    inputs = processor(images=[Image.open(file).convert("RGB") for file in files], return_tensors="pt")
    grid = inputs["image_grid_thw"]
    with torch.inference_mode():
        made = model.model.visual(inputs["pixel_values"], grid_thw=grid)
    embeds = getattr(made, "pooler_output", made)  # transformers 4 gives the tensor itself
    np.savez(out, image_embeds=embeds.numpy(), image_grid_thw=grid.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
