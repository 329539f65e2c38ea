"""Plain, graded, noisy and textured backgrounds that shapes and numbers stand out from."""

from __future__ import annotations

import math
from functools import lru_cache
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tools.shapes_vl.palette import RGB, near

BACKGROUNDS = ("plain", "gradient", "noise", "texture")
MIN_CONTRAST = 100.0
"""Least distance in RGB space between a shape and its background."""
_NOISE_SIDE = 512
_COMMON_GROUNDS: tuple[RGB, ...] = (
    (255, 255, 255),
    (255, 255, 255),
    (0, 0, 0),
    (245, 245, 245),
    (200, 200, 200),
    (128, 128, 128),
    (64, 64, 64),
)


def background(rng: Random, size: tuple[int, int], kind: str, inks: list[RGB]) -> Image.Image:
    """A background of `size` (width, height), one of `BACKGROUNDS`, that stands out from all `inks`."""
    first = _contrasting(rng, inks)
    if kind == "plain":
        return Image.new("RGB", size, first)
    if kind == "gradient":
        return _gradient(rng, size, first, _contrasting(rng, inks, beside=first))
    if kind == "noise":
        return _noisy(rng, size, first)
    return _textured(rng, size, first, _contrasting(rng, inks, beside=first))


def _contrasting(rng: Random, inks: list[RGB], beside: RGB | None = None) -> RGB:
    """A colour far from all `inks`; with `beside`, one not far from it, so that shapes stay visible between both."""
    best, best_distance = (128, 128, 128), -1.0
    for _ in range(40):
        colour = _candidate(rng) if beside is None else near(rng, beside, 60)
        distance = min(math.dist(colour, ink) for ink in inks)
        if distance >= MIN_CONTRAST + 10:
            return colour
        if distance > best_distance:
            best, best_distance = colour, distance
    return best if beside is None or best_distance > MIN_CONTRAST else beside


def _candidate(rng: Random) -> RGB:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(_COMMON_GROUNDS)
    if kind < 0.55:
        level = rng.randint(0, 255)
        return near(rng, (level, level, level), 12)
    if kind < 0.75:
        return rng.randint(170, 255), rng.randint(170, 255), rng.randint(170, 255)
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def _gradient(rng: Random, size: tuple[int, int], first: RGB, last: RGB) -> Image.Image:
    ramp = {0: Image.linear_gradient, 1: Image.radial_gradient}[int(rng.random() < 0.2)]("L")
    ramp = ramp.rotate(rng.choice((0, 90, 180, 270))).resize(size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", size, last), Image.new("RGB", size, first), ramp)


@lru_cache(maxsize=1)
def _noise() -> npt.NDArray[np.float32]:
    """Standard normal noise, shape (512, 512, 3), cut and repeated for every image to save time."""
    return np.random.default_rng(7).standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3)).astype(np.float32)


def _noise_tile(rng: Random, width: int, height: int, grey: bool) -> npt.NDArray[np.float32]:
    bank = _noise()
    tile = bank[: min(height, _NOISE_SIDE), : min(width, _NOISE_SIDE)]
    top = rng.randint(0, _NOISE_SIDE - tile.shape[0])
    left = rng.randint(0, _NOISE_SIDE - tile.shape[1])
    tile = bank[top : top + tile.shape[0], left : left + tile.shape[1]]
    tile = np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))[:height, :width]
    return tile[..., :1] if grey else tile


def _noisy(rng: Random, size: tuple[int, int], colour: RGB) -> Image.Image:
    width, height = size
    coarse = rng.choice((1, 1, 2, 4))
    tile = _noise_tile(rng, -(-width // coarse), -(-height // coarse), rng.random() < 0.5)
    values = np.asarray(colour, np.float32) + rng.uniform(4, 22) * tile
    picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return picture if coarse == 1 else picture.resize(size, Image.Resampling.BICUBIC)


def _textured(rng: Random, size: tuple[int, int], first: RGB, second: RGB) -> Image.Image:
    """Stripes, checks or dots in two colours that are not far apart."""
    canvas = Image.new("RGB", size, first)
    pen = ImageDraw.Draw(canvas)
    width, height = size
    step = max(6, int(rng.uniform(0.04, 0.16) * min(size)))
    pattern = rng.choice(("rows", "columns", "checks", "dots"))
    columns = range(0, width, step) if pattern != "rows" else (0,)
    rows = range(0, height, step) if pattern != "columns" else (0,)
    for i, x in enumerate(columns):
        for j, y in enumerate(rows):
            if (i + j) % 2 == 0:
                continue
            box = (x, y, width if pattern == "rows" else x + step - 1, height if pattern == "columns" else y + step - 1)
            if pattern == "dots":
                pen.ellipse(box, fill=second)
            else:
                pen.rectangle(box, fill=second)
    return canvas
