"""Holds this package's own reading of a model folder against transformers: processor, positions, logits, answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from tools.shapes_vl import draw, tasks, vision
from tools.shapes_vl.chat import Encoder, Example, Turn, Visual, user_text
from tools.shapes_vl.data import as_tensors
from tools.shapes_vl.export import load_tokenizer, load_weights
from tools.shapes_vl.model import ROPE_THETA, answer_logits, grouped_attention
from tools.shapes_vl.packing import SMALL, Packer, conversation

MAX_LOGIT_DIFFERENCE = 2e-3
"""Between float32 computations in different order, for logits of about 10."""


def check(folder: Path) -> list[str]:
    """Compare on pictures, several pictures, text and a clip; returns one line for each, raises where they differ."""
    processor = AutoProcessor.from_pretrained(folder)
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    missing = set(report["missing_keys"]) - {"lm_head.weight"}
    if missing or report["unexpected_keys"]:
        raise AssertionError(f"missing {missing}, unexpected {report['unexpected_keys']}")
    inv_freq = model.model.language_model.rotary_emb.inv_freq
    expected = ROPE_THETA ** -(torch.arange(len(inv_freq)) / len(inv_freq))
    torch.testing.assert_close(inv_freq.float(), expected)
    return [_compare(folder, name, *case, processor, model) for name, case in _cases().items()]


def _cases() -> dict[str, tuple[str, str, list[Image.Image], tuple[Image.Image, ...]]]:
    """Per name: the question, the expected answer, pictures, and the frames of a clip."""
    scenes = [draw.draw_scene(seed, size) for seed, size in enumerate([(224, 224), (300, 168), (112, 140), (448, 448)])]
    pictures = [image for image, _ in scenes]
    names = [[(shape.colour, shape.kind) for shape in scene.shapes] for _, scene in scenes]
    clip = draw.draw_clip(5, "left", (112, 112), 7)
    cases: dict[str, tuple[str, str, list[Image.Image], tuple[Image.Image, ...]]] = {
        f"picture {image.width}x{image.height}": (tasks.question("describe", "en"), tasks.describe(told), [image], ())
        for image, told in zip(pictures, names, strict=True)
    }
    cases["three pictures"] = (tasks.question("each", "zh"), tasks.describe_each(names[:3], "zh"), pictures[:3], ())
    cases["text"] = ("2+3=", "5", [], ())
    cases["clip"] = (tasks.question("direction", "en"), clip.direction, [], clip.frames)
    return cases


def _compare(
    folder: Path,
    name: str,
    asked: str,
    said: str,
    images: list[Image.Image],
    clip: tuple[Image.Image, ...],
    processor: Any,
    model: Any,
) -> str:
    visuals = [Visual((vision.pixels(image),)) for image in images]
    if clip:
        visuals.append(Visual(tuple(vision.pixels(frame, vision.MAX_VIDEO_PIXELS) for frame in clip), 2 / 2.0))
    turn = Turn(asked, said, len(visuals))
    ours = conversation(Example("describe", (turn,), tuple(visuals)), Encoder(load_tokenizer(folder)))
    prompt = [{"role": "user", "content": user_text(turn, tuple(visuals))}]
    text = processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], return_tensors="pt", **_media(images, clip))
    theirs = [-1 if token in _pads(processor) else token for token in inputs["input_ids"][0].tolist()]
    if theirs != ours.ids[: len(theirs)]:
        raise AssertionError(f"{name}: other tokens: {theirs} and {ours.ids}")
    generated = model.generate(**inputs, max_new_tokens=80, do_sample=False)[0, len(theirs) :]
    heard = processor.tokenizer.decode(generated, skip_special_tokens=True)
    packer = Packer(SMALL)
    packer.add(ours, 0)
    pack = as_tensors(packer.finish())
    with torch.inference_mode():
        first = answer_logits(load_weights(folder), pack, grouped_attention)[0]
        difference = (model(**inputs).logits[0, -1] - first).abs().max().item()
    if difference > MAX_LOGIT_DIFFERENCE:
        raise AssertionError(f"{name}: logits differ by {difference}")
    return f"{name}: logits within {difference:.1e}, {'right' if heard == said else 'WRONG'}: {heard!r}"


def _media(images: list[Image.Image], clip: tuple[Image.Image, ...]) -> dict[str, Any]:
    if images:
        return {"images": images}
    if not clip:
        return {}
    frames = torch.stack([torch.from_numpy(vision.pixels(frame).copy()).permute(2, 0, 1) for frame in clip])
    facts = {"fps": 2.0, "total_num_frames": len(clip), "frames_indices": list(range(len(clip)))}
    return {"videos": [frames], "video_metadata": [facts], "do_sample_frames": False}


def _pads(processor: Any) -> tuple[int, int]:
    return processor.image_token_id, processor.video_token_id
