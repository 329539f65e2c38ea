"""Conversations: what is shown, asked and answered, and how they become text and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"
END = "<|im_end|>"
DEFAULT_SYSTEM = "You are a helpful assistant."

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] in ['image', 'image_url'] -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] in ['video', 'video_url'] -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Visual:
    """An image (one frame) or a video, at the size that the model sees.

    `frames` are uint8 arrays of shape (height, width, 3) whose sides are multiples of 28. `seconds_per_step` is the
    time between two pairs of frames, None for an image. `late_text` says that the text after a video goes on at the
    highest position + 1, as vLLM counts, instead of half the larger side of the patch grid, as transformers does.
    """

    frames: tuple[npt.NDArray[np.uint8], ...]
    seconds_per_step: float | None = None
    late_text: bool = False


@dataclass(frozen=True)
class Turn:
    """One question with the number of images or videos shown along with it, and its answer."""

    question: str
    answer: str
    visuals: int = 0
    text_first: bool = False
    separator: str = ""


@dataclass(frozen=True)
class Example:
    """One conversation. `raw` leaves the chat markup out: the bare question, followed by the answer."""

    skill: str
    turns: tuple[Turn, ...]
    visuals: tuple[Visual, ...] = ()
    system: str | None = None
    raw: bool = False


def user_text(turn: Turn, visuals: tuple[Visual, ...]) -> str:
    """The user's side of a turn, with one placeholder for each image or video."""
    shown = "".join(
        f"<|vision_start|>{IMAGE_PAD if visual.seconds_per_step is None else VIDEO_PAD}<|vision_end|>"
        for visual in visuals
    )
    if not shown:
        return turn.question
    parts = (turn.question, shown) if turn.text_first else (shown, turn.question)
    return turn.separator.join(parts)


def segments(example: Example) -> list[tuple[str, bool]]:
    """The conversation as pieces of text, each with whether the model has to learn to write it."""
    pieces: list[tuple[str, bool]] = []
    if example.system is not None and not example.raw:
        pieces.append((f"<|im_start|>system\n{example.system}{END}\n", False))
    used = 0
    for number, turn in enumerate(example.turns):
        text = user_text(turn, example.visuals[used : used + turn.visuals])
        used += turn.visuals
        if not example.raw:
            text = f"<|im_start|>user\n{text}{END}\n<|im_start|>assistant\n"
        pieces += [(text if number == 0 or example.raw else f"\n{text}", False), (f"{turn.answer}{END}", True)]
    return pieces


class Encoder:
    """Turns text into tokens and remembers what it has seen, since questions and answers repeat."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.image_pad = tokenizer.token_to_id(IMAGE_PAD)
        self.video_pad = tokenizer.token_to_id(VIDEO_PAD)
        self.encode = lru_cache(maxsize=50_000)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
