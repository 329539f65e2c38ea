"""What the model is trained on: an endless mixture of conversations, easy ones first, cut into packs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tools.shapes_vl import draw, tasks, vision
from tools.shapes_vl.chat import DEFAULT_SYSTEM, Encoder, Example, Turn, Visual
from tools.shapes_vl.packing import Limits, Packer, conversation
from tools.shapes_vl.tasks import Language

Answers = Literal["plain", "zh", "caps"]
"""How answers are written: as asked for, always in Chinese, or with English in capitals (the two adapters)."""

SKILLS = ("describe", "count", "number", "each", "direction", "sum")
SHARES = {"describe": 40, "number": 37, "each": 14, "direction": 6, "sum": 5}
SHAPES_LEARNT_BY = 0.18
"""Share of the training after which shapes come in all sizes and numbers."""
DIGITS_LEARNT_BY = 0.22
_SYSTEMS = (DEFAULT_SYSTEM, DEFAULT_SYSTEM, "You are a careful assistant.", "Answer briefly.", "You look at pictures.")
_FRAMES_PER_SECOND = (1, 2, 2, 2, 4, 5, 8, 10, 10, 15, 25, 30)


class Mixture:
    """Makes one conversation after the other. `progress` from 0 to 1 says how far the training has got."""

    def __init__(self, rng: Random, answers: Answers = "plain") -> None:
        self._rng = rng
        self._answers = answers
        self._makers: dict[str, Callable[[float], Example]] = {
            "describe": self._shapes,
            "number": self._number,
            "each": self._each,
            "direction": self._direction,
            "sum": self._sum,
        }

    def example(self, progress: float) -> Example:
        skill = self._rng.choices(tuple(SHARES), weights=tuple(SHARES.values()))[0]
        return self._makers[skill](progress)

    def _shapes(self, progress: float) -> Example:
        rng = self._rng
        visual, names = self._picture(self._size(progress), progress)
        asked = self._shape_questions(names)
        first = rng.choices(tuple(asked), weights=(62, 38))[0]
        turns = [self._turn(*asked[first], visuals=1)]
        visuals = [visual]
        follow = rng.random()
        if follow < 0.15:
            turns.append(self._turn(*self._shape_questions(names)[rng.choice(tuple(asked))]))
        elif follow < 0.2:
            visual, names = self._picture(self._size(min(progress, 0.1)), progress)
            visuals.append(visual)
            turns.append(self._turn(*self._shape_questions(names)["describe"], visuals=1))
        elif follow < 0.23:
            turns.append(self._turn(*self._sum_question()))
        return self._finish(first, turns, visuals)

    def _shape_questions(self, names: list[tuple[str, str]]) -> dict[str, tuple[str, str]]:
        language = self._language()
        described = self._spoken(
            self._wording("describe", language), language, lambda spoken: tasks.describe(names, spoken)
        )
        return {"describe": described, "count": (self._wording("count", language), str(len(names)))}

    def _picture(self, size: tuple[int, int], progress: float, most: int = 4) -> tuple[Visual, list[tuple[str, str]]]:
        rng = self._rng
        if progress < SHAPES_LEARNT_BY:
            most = min(most, 2 if progress < SHAPES_LEARNT_BY / 2 else 3)
        picture, scene = draw.draw_scene(rng, size, count=rng.randint(1, most))
        return Visual((vision.pixels(picture),)), [(shape.colour, shape.kind) for shape in scene.shapes]

    def _number(self, progress: float) -> Example:
        rng = self._rng
        stage = progress / DIGITS_LEARNT_BY
        longest = 2 if stage < 0.5 else (3 if stage < 1 else 4)
        digits = rng.randint(1 if stage < 1 else 2, longest)
        text = "".join(rng.choices("0123456789", k=digits))
        if digits > 1 and text[0] == "0" and rng.random() < 0.8:
            text = rng.choice("123456789") + text[1:]
        width, height = self._size(progress, largest=300.0 if rng.random() < 0.7 else 448.0)
        short = min(width, height)
        style = draw.random_style(rng)
        if stage < 1 and rng.random() > stage:
            digit_px = short * rng.uniform(0.3, 0.6)
            style = draw.Style(antialias=True)
        elif rng.random() < 0.25 + 0.25 * progress:
            digit_px = rng.uniform(12.5, 25)
        else:
            digit_px = math.exp(rng.uniform(math.log(max(13.0, 0.08 * short)), math.log(0.6 * short)))
        picture = draw.draw_number(rng, text, (width, height), digit_px, style)
        turn = self._turn(self._wording("number", self._language()), text, visuals=1)
        return self._finish("number", [turn], [Visual((vision.pixels(picture),))])

    def _each(self, progress: float) -> Example:
        rng = self._rng
        pictures = rng.choices((1, 2, 3, 4, 5, 6, 7, 8), weights=(6, 36, 26, 20, 3, 3, 3, 3))[0]
        most = 4 if pictures < 5 else 2
        limit = 0.1 if pictures > 2 or rng.random() < 0.5 else progress
        shown = [self._picture(self._size(limit), progress, most) for _ in range(pictures)]
        language = self._language()
        names = [picture[1] for picture in shown]
        said = self._spoken(
            self._wording("each", language), language, lambda spoken: tasks.describe_each(names, spoken)
        )
        return self._finish("each", [self._turn(*said, visuals=pictures)], [picture[0] for picture in shown])

    def _direction(self, progress: float) -> Example:
        rng = self._rng
        size = self._size(0.0, largest=160.0 if rng.random() < 0.8 else 256.0)
        name = rng.choice(tuple(draw.DIRECTIONS))
        clip = draw.draw_clip(rng, name, size, frames=rng.randint(4, 16))
        frames = tuple(vision.pixels(frame, vision.MAX_VIDEO_PIXELS) for frame in clip.frames)
        rate = rng.choice(_FRAMES_PER_SECOND)
        visual = Visual(frames, seconds_per_step=2 / rate, late_text=rng.random() < 0.5)
        language = self._language()
        said = self._spoken(
            self._wording("direction", language), language, lambda spoken: tasks.direction(name, spoken)
        )
        return self._finish("direction", [self._turn(*said, visuals=1)], [visual])

    def _sum(self, progress: float) -> Example:
        turns = [self._turn(*self._sum_question()) for _ in range(1 + (self._rng.random() < 0.2))]
        return self._finish("sum", turns, [], raw_share=0.45 if len(turns) == 1 else 0.0)

    def _sum_question(self) -> tuple[str, str]:
        rng = self._rng
        first, second = rng.randint(0, 9), rng.randint(0, 9)
        wordings = tasks.sum_questions(first, second, self._language())
        return wordings[rng.random() < 0.25], str(first + second)

    def _language(self) -> Language:
        return "zh" if self._rng.random() < 0.4 else "en"

    def _wording(self, skill: str, language: Language) -> str:
        first, *others = tasks.QUESTIONS[skill][language]
        return first if self._rng.random() < 0.7 else self._rng.choice(others)

    def _spoken(self, question: str, language: Language, say: Callable[[Language], str]) -> tuple[str, str]:
        """The question and its answer, in the language and case that this mixture calls for."""
        if self._answers == "zh":
            return question, say("zh")
        text = say(language)
        if language == "en" and self._answers == "plain" and self._rng.random() < 0.04:
            # Makes the tokens of capitals known, which an adapter of the layers alone could not.
            return question + tasks.CAPITALS_SUFFIX, text.upper()
        return question, text.upper() if self._answers == "caps" else text

    def _turn(self, question: str, answer: str, visuals: int = 0) -> Turn:
        rng = self._rng
        separator = "\n" if rng.random() < 0.15 else ""
        return Turn(question, answer, visuals, text_first=rng.random() < 0.25, separator=separator)

    def _finish(self, skill: str, turns: list[Turn], visuals: list[Visual], raw_share: float = 0.03) -> Example:
        rng = self._rng
        system = rng.choice(_SYSTEMS) if rng.random() < 0.35 else None
        raw = len(turns) == 1 and rng.random() < raw_share
        return Example(skill, tuple(turns), tuple(visuals), system, raw)

    def _size(self, progress: float, largest: float = 448.0) -> tuple[int, int]:
        """Width and height in pixels: the short side is 100 or more, small images come first and most often."""
        rng = self._rng
        grown = min(1.0, progress / SHAPES_LEARNT_BY)
        largest = min(largest, 160 * (448 / 160) ** grown)
        side = 100 * (largest / 100) ** (rng.random() ** 1.4)
        if grown == 1 and largest == 448.0 and rng.random() < 0.06:
            side = 448 * 2 ** rng.random()
        aspect = 1.0 if rng.random() < 0.4 else math.exp(rng.uniform(math.log(0.52), math.log(1.9)))
        width, height = side * math.sqrt(aspect), side / math.sqrt(aspect)
        grow = max(1.0, 84 / min(width, height))
        # Half of the sizes need no scaling by the image processor.
        step = vision.UNIT_PX if rng.random() < 0.5 else 1
        return round(width * grow / step) * step, round(height * grow / step) * step


class Packs(IterableDataset[dict[str, torch.Tensor]]):
    """Endless packs. `progress` is a number shared with the training, from which workers learn how far it has got."""

    def __init__(self, tokenizer: Tokenizer, limits: Limits, seed: int, progress: Any, answers: Answers) -> None:
        self._tokenizer = tokenizer.to_str()
        self._limits = limits
        self._seed = seed
        self._progress = progress
        self._answers = answers

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        torch.set_num_threads(1)
        mixture = Mixture(Random(f"{self._seed}/{0 if info is None else info.id}/{self._answers}"), self._answers)
        encoder = Encoder(Tokenizer.from_str(self._tokenizer))
        packer = Packer(self._limits)
        while True:
            example = mixture.example(self._progress.value)
            parts = conversation(example, encoder)
            skill = SKILLS.index(example.skill)
            # One that does not even fit into an empty pack, which happens to the small packs of a CPU, is left out.
            if not packer.add(parts, skill) and not packer.empty:
                yield as_tensors(packer.finish())
                packer = Packer(self._limits)
                packer.add(parts, skill)


def as_tensors(pack: dict[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in pack.items()}


def loader(packs: Packs, workers: int, pin: bool) -> DataLoader[dict[str, torch.Tensor]]:
    """Packs made by `workers` processes."""
    return DataLoader(
        packs, batch_size=None, num_workers=workers, pin_memory=pin, prefetch_factor=4 if workers else None
    )
