"""Questions and answers in English and Chinese.

The wording here is the contract of the model: the first question of every list is the one to use, the others are
only there so that the model does not depend on a single wording.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

COLOURS_ZH = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "orange": "橙色",
    "purple": "紫色",
    "black": "黑色",
    "white": "白色",
}
KINDS_ZH = {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形"}
DIRECTIONS_ZH = {"left": "向左", "right": "向右", "up": "向上", "down": "向下"}

QUESTIONS: dict[str, dict[Language, tuple[str, ...]]] = {
    "describe": {
        "en": (
            "Describe the image.",
            "Describe this image.",
            "Describe the picture.",
            "What is in the image?",
            "What is in this picture?",
            "What do you see?",
        ),
        "zh": ("描述这张图片。", "描述图片。", "图片里有什么？"),
    },
    "count": {
        "en": ("How many shapes are there?", "How many shapes are in the image?", "Count the shapes."),
        "zh": ("有几个图形？", "图片里有几个图形？"),
    },
    "number": {
        "en": ("Read the number.", "What is the number?", "What number is this?"),
        "zh": ("读出这个数字。", "这是什么数字？"),
    },
    "each": {
        "en": ("Describe each image.", "Describe each picture.", "Describe every image."),
        "zh": ("描述每张图片。", "描述每一张图片。"),
    },
    "direction": {
        "en": ("Which way does it move?", "In which direction does it move?"),
        "zh": ("它往哪个方向移动？", "它向哪里移动？"),
    },
}
CAPITALS_SUFFIX = " Answer in capitals."


class Named(Protocol):
    """Anything with the names of a colour and of a shape."""

    @property
    def colour(self) -> str: ...

    @property
    def kind(self) -> str: ...


class Depicts(Protocol):
    """Anything that shows shapes, listed from left to right."""

    @property
    def shapes(self) -> Sequence[Named]: ...


def question(skill: str, language: Language) -> str:
    """The standard wording of a question."""
    return QUESTIONS[skill][language][0]


def answer(scene: Depicts, language: Language = "en") -> str:
    """What the model says of an image, e.g. `a red circle, a blue square and a green star`."""
    return describe([(shape.colour, shape.kind) for shape in scene.shapes], language)


def describe(shapes: Sequence[tuple[str, str]], language: Language = "en") -> str:
    """As `answer`, from pairs of colour and kind."""
    if language == "zh":
        names = [f"一个{COLOURS_ZH[colour]}的{KINDS_ZH[kind]}" for colour, kind in shapes]
        comma, last = "、", "和"
    else:
        names = [f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {kind}" for colour, kind in shapes]
        comma, last = ", ", " and "
    return last.join(filter(None, [comma.join(names[:-1]), names[-1]]))


def describe_each(pictures: Sequence[Sequence[tuple[str, str]]], language: Language = "en") -> str:
    """One numbered description for each image, e.g. `1: a red circle; 2: a green star`."""
    colon, semicolon = ("：", "；") if language == "zh" else (": ", "; ")
    return semicolon.join(f"{i}{colon}{describe(shapes, language)}" for i, shapes in enumerate(pictures, 1))


def direction(name: str, language: Language = "en") -> str:
    """The answer to `Which way does it move?`."""
    return DIRECTIONS_ZH[name] if language == "zh" else name


def sum_questions(first: int, second: int, language: Language) -> tuple[str, ...]:
    """Wordings of a sum of two digits; the first one is `2+3=` in both languages."""
    plain = f"{first}+{second}="
    return (plain, f"{first}+{second}等于几？") if language == "zh" else (plain, f"What is {first}+{second}?")
