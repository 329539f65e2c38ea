"""Writes numbers in many fonts."""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont


@lru_cache(maxsize=1)
def fonts() -> tuple[str, ...]:
    """Font files to write numbers with; the empty string stands for Pillow's own font.

    matplotlib carries DejaVu, STIX and Computer Modern; without it DejaVu is looked for in the system's folder.
    """
    names = [
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "STIXGeneral",
        "STIXGeneralBol",
        "STIXGeneralItalic",
        "cmr10",
        "cmss10",
        "cmtt10",
        "cmb10",
    ]
    folders = [Path("/usr/share/fonts/truetype/dejavu")]
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        folders.insert(0, Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf")
    found = []
    for name in names:
        paths = (folder / f"{name}.ttf" for folder in folders)
        found += [str(path) for path in paths if path.is_file()][:1]
    return ("", "", *found)


@lru_cache(maxsize=1024)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    if path:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which numbers are written with")
    return font


@lru_cache(maxsize=64)
def _digit_share(path: str) -> float:
    """Height of a digit as a share of the font's size."""
    _, top, _, bottom = _font(path, 200).getbbox("0")
    return float(bottom - top) / 200


def digits_mask(rng: Random, text: str, digit_px: float, room: tuple[float, float], antialias: bool) -> Image.Image:
    """A mask of the number `text`, its digits about `digit_px` high, that fits into `room` (width, height)."""
    path = rng.choice(fonts())
    size = max(8, round(digit_px / _digit_share(path)))
    stretch = rng.uniform(0.8, 1.25) if rng.random() < 0.4 else 1.0
    turn = rng.uniform(-7, 7) if rng.random() < 0.3 else 0.0
    while True:
        mask = _written(path, size, text, stretch, turn, antialias)
        if (mask.width <= room[0] and mask.height <= room[1]) or size <= 8:
            return mask
        size = max(8, int(size * min(room[0] / mask.width, room[1] / mask.height)) - 1)


def _written(path: str, size: int, text: str, stretch: float, turn: float, antialias: bool) -> Image.Image:
    font = _font(path, size)
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2), 0)
    pen = ImageDraw.Draw(mask)
    if not antialias and size > 28:
        pen.fontmode = "1"
    pen.text((1 - left, 1 - top), text, fill=255, font=font)
    if stretch != 1.0:
        mask = mask.resize((max(4, round(mask.width * stretch)), mask.height), Image.Resampling.BILINEAR)
    return mask.rotate(turn, Image.Resampling.BILINEAR, expand=True) if turn else mask
