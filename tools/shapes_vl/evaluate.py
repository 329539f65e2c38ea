"""Measures exact answers on images that the training never saw, per skill, size and way of drawing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from random import Random

import torch
from PIL import Image

from tests.support import shapes as others
from tools.shapes_vl import draw, tasks, vision
from tools.shapes_vl.chat import DEFAULT_SYSTEM, Encoder, Example, Turn, Visual
from tools.shapes_vl.data import Answers, as_tensors
from tools.shapes_vl.export import load_tokenizer, load_weights
from tools.shapes_vl.lora import load_adapter, merger
from tools.shapes_vl.model import Weights, answer_logits, flash_attention, grouped_attention
from tools.shapes_vl.packing import SMALL, Limits, Packer, conversation
from tools.shapes_vl.tasks import Language
from tools.shapes_vl.train import exact_answers

SIZES: tuple[str, ...] = ("112", "224", "336", "448", "896", "mixed")
"""Sides in pixels of square images; `mixed` is 112 to 448 with aspect ratios from 0.55 to 1.8."""
PICTURE_SKILLS = ("describe", "count", "number")
FIRST_SEED = 1_000_000_000
_GIF_RATES = (2.0, 5.0, 10.0, 25.0)

Names = list[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """One figure of the table: a skill and language, a size, and who draws (`own` or `other`)."""

    skill: str
    language: Language
    size: str
    drawn: str


def cells() -> list[Cell]:
    """Everything that is measured."""
    drawn = ("own", "other")
    found = [Cell(*key) for key in product(PICTURE_SKILLS, tasks.LANGUAGES, SIZES, drawn)]
    found += [Cell("each", *key) for key in product(tasks.LANGUAGES, ("112", "224", "mixed"), drawn)]
    found += [Cell("direction", *key) for key in product(tasks.LANGUAGES, ("112", "224"), drawn)]
    return found + [Cell("sum", language, "-", "-") for language in tasks.LANGUAGES]


def evaluate(
    folder: Path,
    device: str,
    count: int,
    adapter: Path | None = None,
    answers: Answers = "plain",
    workers: int = 1,
) -> list[tuple[Cell, int, int]]:
    """Right answers and questions of every cell, `count` questions each; in half precision on a GPU."""
    weights = load_weights(folder)
    if adapter is not None:
        weights = merger(weights, load_adapter(adapter))()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    weights = {name: value.to(device, dtype) for name, value in weights.items()}
    measured = cells()
    with get_context("spawn").Pool(workers) as pool:
        asked = pool.imap(partial(_questions, count=count, answers=answers), measured)
        numbered = ((number, example) for number, examples in enumerate(asked) for example in examples)
        totals = _measure(weights, Encoder(load_tokenizer(folder)), numbered, len(measured), device)
    return [(cell, *total) for cell, total in zip(measured, totals, strict=True)]


def questions(cell: Cell, count: int, answers: Answers = "plain") -> Iterator[Example]:
    """The questions of one cell, each from a seed of its own."""
    if cell.skill == "sum":
        yield from _sums(cell.language)
        return
    ask = {"describe": _described, "count": _counted, "number": _read, "each": _each, "direction": _moving}[cell.skill]
    for number in range(count):
        seed = FIRST_SEED + number
        turn, visuals = ask(cell, Random(f"{cell}/{seed}"), _Speaker(cell.language, answers))
        system = DEFAULT_SYSTEM if number % 3 == 0 else None
        yield Example(cell.skill, (turn,), tuple(visuals), system)


def _questions(cell: Cell, count: int, answers: Answers) -> list[Example]:
    return list(questions(cell, count, answers))


def table(results: Iterable[tuple[Cell, int, int]]) -> str:
    """A Markdown table: a row for each skill, language and way of drawing, a column for each size."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell, right, total in results:
        row = rows.setdefault((cell.skill, cell.language, cell.drawn), {})
        row[cell.size] = f"{100 * right / total:.1f}"
    columns = (*SIZES, "-")
    lines = ["| skill | language | drawn by | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
    for (skill, language, drawn), row in rows.items():
        lines.append(f"| {skill} | {language} | {drawn} | " + " | ".join(row.get(c, "") for c in columns) + " |")
    return "\n".join(lines)


def save_results(results: Iterable[tuple[Cell, int, int]], path: Path) -> None:
    rows = [{**vars(cell), "right": right, "total": total} for cell, right, total in results]
    path.write_text(json.dumps(rows, indent=0) + "\n", "utf-8")


@dataclass(frozen=True)
class _Speaker:
    """Says what is expected: in the language asked for, or as an adapter is meant to answer."""

    language: Language
    answers: Answers

    def say(self, tell: Callable[[Language], str]) -> str:
        if self.answers == "zh":
            return tell("zh")
        text = tell(self.language)
        return text.upper() if self.answers == "caps" else text


def _measure(
    weights: Weights, encoder: Encoder, numbered: Iterable[tuple[int, Example]], kinds: int, device: str
) -> list[tuple[int, int]]:
    limits = Limits() if device == "cuda" else SMALL
    totals = [(0, 0)] * kinds
    packer = Packer(limits)

    def flush() -> None:
        pack = {name: tensor.to(device) for name, tensor in as_tensors(packer.finish()).items()}
        with torch.inference_mode():
            logits = answer_logits(weights, pack, flash_attention if device == "cuda" else grouped_attention)
        found = exact_answers(logits.argmax(-1) == pack["targets"], pack, kinds)
        totals[:] = [(a + c, b + d) for (a, b), (c, d) in zip(totals, found, strict=True)]

    for kind, example in numbered:
        parts = conversation(example, encoder)
        if not packer.add(parts, kind):
            flush()
            packer = Packer(limits)
            if not packer.add(parts, kind):
                raise ValueError(f"a conversation of {len(parts.ids)} tokens is too long for a pack of {limits}")
    flush()
    return totals


def _size(cell: Cell, rng: Random) -> tuple[int, int]:
    if cell.size != "mixed":
        return int(cell.size), int(cell.size)
    side, aspect = rng.uniform(150, 333), rng.uniform(0.55, 1.8)
    return round(side * aspect**0.5), round(side / aspect**0.5)


def _jpeg(rng: Random) -> int | None:
    return rng.randint(40, 95) if rng.random() < 0.4 else None


def _picture(cell: Cell, rng: Random) -> tuple[Visual, Names]:
    size, seed = _size(cell, rng), rng.randrange(1 << 40)
    if cell.drawn == "other":
        picture = others.picture(seed, size, jpeg=_jpeg(rng))
        return _still(picture.image), picture.shapes
    image, scene = draw.draw_scene(seed, size)
    return _still(image), [(shape.colour, shape.kind) for shape in scene.shapes]


def _still(image: Image.Image) -> Visual:
    return Visual((vision.pixels(image),))


def _described(cell: Cell, rng: Random, speaker: _Speaker) -> tuple[Turn, list[Visual]]:
    visual, names = _picture(cell, rng)
    said = speaker.say(lambda language: tasks.describe(names, language))
    return Turn(tasks.question("describe", cell.language), said, 1), [visual]


def _counted(cell: Cell, rng: Random, speaker: _Speaker) -> tuple[Turn, list[Visual]]:
    visual, names = _picture(cell, rng)
    return Turn(tasks.question("count", cell.language), str(len(names)), 1), [visual]


def _read(cell: Cell, rng: Random, speaker: _Speaker) -> tuple[Turn, list[Visual]]:
    size, seed = _size(cell, rng), rng.randrange(1 << 40)
    digits = rng.randint(2, 4)
    text = str(rng.randrange(10 ** (digits - 1), 10**digits))
    if cell.drawn == "other":
        image, text = others.number_picture(seed, text, size, jpeg=_jpeg(rng))
    else:
        short = min(size)
        image = draw.draw_number(seed, text, size, rng.uniform(max(15.0, 0.1 * short), 0.55 * short))
    return Turn(tasks.question("number", cell.language), text, 1), [_still(image)]


def _each(cell: Cell, rng: Random, speaker: _Speaker) -> tuple[Turn, list[Visual]]:
    shown = [_picture(cell, rng) for _ in range(rng.randint(2, 4))]
    said = speaker.say(lambda language: tasks.describe_each([names for _, names in shown], language))
    return Turn(tasks.question("each", cell.language), said, len(shown)), [visual for visual, _ in shown]


def _moving(cell: Cell, rng: Random, speaker: _Speaker) -> tuple[Turn, list[Visual]]:
    name, count, seed = rng.choice(tuple(draw.DIRECTIONS)), rng.randint(4, 16), rng.randrange(1 << 40)
    size = _size(cell, rng)
    if cell.drawn == "other":
        frames = tuple(others.clip(seed, name, size, count))
    else:
        frames = draw.draw_clip(seed, name, size, count).frames
    seen = tuple(vision.pixels(frame, vision.MAX_VIDEO_PIXELS) for frame in frames)
    visual = Visual(seen, 2 / rng.choice(_GIF_RATES), late_text=rng.random() < 0.5)
    said = speaker.say(lambda language: tasks.direction(name, language))
    return Turn(tasks.question("direction", cell.language), said, 1), [visual]


def _sums(language: Language) -> Iterator[Example]:
    """All hundred sums, bare and as a chat."""
    for first, second, raw in product(range(10), range(10), (False, True)):
        wordings = tasks.sum_questions(first, second, language)
        asked = wordings[0 if raw else (first + second) % 2]
        yield Example("sum", (Turn(asked, str(first + second)),), raw=raw)
