"""Holds this package's own reading of a model folder against transformers: processor, positions, logits, answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from tools.shapes_vl import draw, tasks, vision
from tools.shapes_vl.chat import Encoder, Example, Turn, Visual, user_text
from tools.shapes_vl.data import as_tensors
from tools.shapes_vl.export import load_tokenizer, load_weights
from tools.shapes_vl.model import ROPE_THETA, Weights, answer_logits, grouped_attention
from tools.shapes_vl.packing import SMALL, TEMPORAL_PATCH, Packer, conversation

CLIP_FRAMES_PER_SECOND = 2.0
MAX_LOGIT_DIFFERENCE = 2e-3
"""Between float32 computations in different order, for logits of about 10."""


@dataclass(frozen=True)
class Case:
    """One question with its images or the frames of its video."""

    name: str
    asked: str
    expected: str
    images: tuple[Image.Image, ...] = ()
    clip: tuple[Image.Image, ...] = ()

    def example(self) -> Example:
        visuals = [Visual((vision.pixels(image),)) for image in self.images]
        if self.clip:
            frames = tuple(vision.pixels(frame, vision.MAX_VIDEO_PIXELS) for frame in self.clip)
            visuals.append(Visual(frames, TEMPORAL_PATCH / CLIP_FRAMES_PER_SECOND))
        return Example("describe", (Turn(self.asked, self.expected, len(visuals)),), tuple(visuals))


def check(folder: Path) -> list[str]:
    """Compare on images, several images, text and a video; returns one line for each, raises where they differ."""
    processor = AutoProcessor.from_pretrained(folder)
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    missing = set(report["missing_keys"]) - {"lm_head.weight"}
    if missing or report["unexpected_keys"]:
        raise AssertionError(f"missing {missing}, unexpected {report['unexpected_keys']}")
    rates = model.model.language_model.rotary_emb.inv_freq.float()
    torch.testing.assert_close(rates, ROPE_THETA ** -(torch.arange(len(rates)) / len(rates)))
    encoder, weights = Encoder(load_tokenizer(folder)), load_weights(folder)
    return [_compare(case, encoder, weights, processor, model) for case in _cases()]


def _cases() -> list[Case]:
    scenes = [draw.draw_scene(seed, size) for seed, size in enumerate([(224, 224), (300, 168), (112, 140), (448, 448)])]
    asked = tasks.question("describe", "en")
    cases = [Case(f"{image.width}x{image.height}", asked, tasks.answer(scene), (image,)) for image, scene in scenes]
    told = [[(shape.colour, shape.kind) for shape in scene.shapes] for _, scene in scenes[:3]]
    pictures = tuple(image for image, _ in scenes[:3])
    clip = draw.draw_clip(5, "left", (112, 112), 7)
    return [
        *cases,
        Case("three pictures", tasks.question("each", "zh"), tasks.describe_each(told, "zh"), pictures),
        Case("text", "2+3=", "5"),
        Case("clip", tasks.question("direction", "en"), clip.direction, clip=clip.frames),
    ]


def _compare(case: Case, encoder: Encoder, weights: Weights, processor: Any, model: Any) -> str:
    example = case.example()
    ours = conversation(example, encoder)
    prompt = [{"role": "user", "content": user_text(example.turns[0], example.visuals)}]
    text = processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], return_tensors="pt", **_media(case))
    pads = (processor.image_token_id, processor.video_token_id)
    theirs = [-1 if token in pads else token for token in inputs["input_ids"][0].tolist()]
    if theirs != ours.ids[: len(theirs)]:
        raise AssertionError(f"{case.name}: other tokens: {theirs} and {ours.ids}")
    packer = Packer(SMALL)
    packer.add(ours, 0)
    with torch.inference_mode():
        first = answer_logits(weights, as_tensors(packer.finish()), grouped_attention)[0]
        difference = (model(**inputs).logits[0, -1] - first).abs().max().item()
        generated = model.generate(**inputs, max_new_tokens=80, do_sample=False)[0, len(theirs) :]
    if difference > MAX_LOGIT_DIFFERENCE:
        raise AssertionError(f"{case.name}: logits differ by {difference}")
    heard = processor.tokenizer.decode(generated, skip_special_tokens=True)
    return f"{case.name}: logits within {difference:.1e}, {'right' if heard == case.expected else 'WRONG'}: {heard!r}"


def _media(case: Case) -> dict[str, Any]:
    if case.images:
        return {"images": list(case.images)}
    if not case.clip:
        return {}
    frames = torch.stack([torch.from_numpy(vision.pixels(frame).copy()).permute(2, 0, 1) for frame in case.clip])
    facts = {
        "fps": CLIP_FRAMES_PER_SECOND,
        "total_num_frames": len(case.clip),
        "frames_indices": list(range(len(case.clip))),
    }
    return {"videos": [frames], "video_metadata": [facts], "do_sample_frames": False}
