"""Draws the images and videos that the model learns from. Needs Pillow and numpy only.

Everything is drawn from a `random.Random`, so a seed gives the same image again. Lengths are in pixels of the
finished image, colours are RGB triples from 0 to 255, and shapes are listed from left to right.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tools.shapes_vl.backgrounds import BACKGROUNDS, background
from tools.shapes_vl.digits import digits_mask
from tools.shapes_vl.palette import COLOURS, RGB, near

Point = tuple[float, float]

KINDS = ("circle", "square", "triangle", "star")
DIRECTIONS: dict[str, Point] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MIN_RADIUS_PX = 10.0


@dataclass(frozen=True)
class Shape:
    """One shape: its names, its centre and the radius of the circle that encloses it."""

    colour: str
    kind: str
    x: float
    y: float
    radius: float
    rgb: RGB


@dataclass(frozen=True)
class Scene:
    """What an image shows, from left to right."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Style:
    """How an image is drawn, apart from what it shows."""

    background: str = "plain"
    antialias: bool = True
    jpeg_quality: int | None = None


@dataclass(frozen=True)
class Clip:
    """Frames of one size in the order they are shown, and the direction in which the shape moves."""

    frames: tuple[Image.Image, ...]
    direction: str
    shape: Shape


def random_style(rng: Random) -> Style:
    """The mixture of styles used for training."""
    background = rng.choices(BACKGROUNDS, weights=(42, 26, 20, 12))[0]
    quality = rng.randint(35, 95) if rng.random() < 0.33 else None
    return Style(background, rng.random() < 0.6, quality)


def draw_scene(
    seed: int | Random, size: tuple[int, int] = (224, 224), style: Style | None = None, count: int | None = None
) -> tuple[Image.Image, Scene]:
    """Draw one to four shapes (or `count`) on an image of `size` (width, height)."""
    rng = _generator(seed)
    style = style or random_style(rng)
    scene = random_scene(rng, size, count or rng.randint(1, 4))
    canvas = background(rng, size, style.background, [shape.rgb for shape in scene.shapes])
    for shape in scene.shapes:
        _paint(canvas, shape, rng, style.antialias)
    return _compress(canvas, style.jpeg_quality), scene


def random_scene(rng: Random, size: tuple[int, int], count: int) -> Scene:
    """Place `count` shapes that neither touch nor leave the order from left to right in doubt."""
    width, height = size
    short = min(width, height)
    smallest = max(MIN_RADIUS_PX, 0.05 * short)
    largest = max(smallest, min(0.46 * short, 0.62 * width / count))
    while True:
        placed = _place(rng, size, count, smallest, largest)
        if placed is not None:
            break
        largest = max(smallest, 0.85 * largest)
    shapes = (_named_shape(rng, *place) for place in sorted(placed))
    return Scene(width, height, tuple(shapes))


def draw_number(
    seed: int | Random, text: str, size: tuple[int, int], digit_px: float, style: Style | None = None
) -> Image.Image:
    """Write the digits `text`, about `digit_px` high, on an image of `size`; smaller where they would not fit."""
    rng = _generator(seed)
    style = style or random_style(rng)
    ink = near(rng, rng.choice(COLOURS[rng.choice(tuple(COLOURS))]), 12)
    canvas = background(rng, size, style.background, [ink])
    mask = digits_mask(rng, text, digit_px, (0.94 * size[0], 0.9 * size[1]), style.antialias)
    left = rng.randint(0, max(0, size[0] - mask.width))
    top = rng.randint(0, max(0, size[1] - mask.height))
    canvas.paste(ink, (left, top), mask)
    return _compress(canvas, style.jpeg_quality)


def draw_clip(
    seed: int | Random, direction: str, size: tuple[int, int] = (112, 112), frames: int = 8, style: Style | None = None
) -> Clip:
    """Draw one shape that crosses at least a quarter of the image in `direction`, over a still background."""
    rng = _generator(seed)
    style = style or random_style(rng)
    width, height = size
    short = min(size)
    radius = rng.uniform(max(MIN_RADIUS_PX, 0.08 * short), 0.24 * short)
    shape = _named_shape(rng, 0.0, 0.0, radius)
    ground = background(rng, size, style.background, [shape.rgb])
    step_x, step_y = DIRECTIONS[direction]
    room_x, room_y = width - 2 * radius, height - 2 * radius
    share = rng.uniform(min(0.95, max(0.35, 0.02 * frames)), 1.0)
    start = rng.uniform(0, 1 - share)
    cross = rng.uniform(0, 1)
    look = Random(rng.random())
    look_state = look.getstate()
    pictures = []
    for index in range(frames):
        along = start + share * index / (frames - 1)
        across = cross + rng.uniform(-0.01, 0.01)
        x = radius + room_x * _fraction(step_x, along, across)
        y = radius + room_y * _fraction(step_y, along, across)
        canvas = ground.copy()
        look.setstate(look_state)
        _paint(canvas, replace(shape, x=x, y=y), look, style.antialias)
        pictures.append(_compress(canvas, style.jpeg_quality))
    return Clip(tuple(pictures), direction, shape)


def _generator(seed: int | Random) -> Random:
    return seed if isinstance(seed, Random) else Random(seed)


def _fraction(step: float, along: float, across: float) -> float:
    if step > 0:
        return along
    return 1 - along if step < 0 else across


def _place(
    rng: Random, size: tuple[int, int], count: int, smallest: float, largest: float
) -> list[tuple[float, float, float]] | None:
    """Try to find `count` places (x, y, radius) for circles of radius `smallest` to `largest`."""
    width, height = size
    gap = max(8.0, 0.07 * width)
    placed: list[tuple[float, float, float]] = []
    for _ in range(25 * count):
        radius = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        x = rng.uniform(radius + 1, width - radius - 1)
        y = rng.uniform(radius + 1, height - radius - 1)
        if all(abs(x - px) >= gap and math.hypot(x - px, y - py) > radius + pr + 2 for px, py, pr in placed):
            placed.append((x, y, radius))
            if len(placed) == count:
                return placed
    return None


def _named_shape(rng: Random, x: float, y: float, radius: float) -> Shape:
    colour = rng.choice(tuple(COLOURS))
    rgb = near(rng, rng.choice(COLOURS[colour]), 10)
    return Shape(colour, rng.choice(KINDS), x, y, radius, rgb)


def _outline(kind: str, rng: Random) -> list[Point]:
    """Corners of a polygon whose farthest corner lies at distance 1 from the origin."""
    if kind == "square":
        corners = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    elif kind == "triangle":
        half, base = rng.choice(((0.866, 0.5), (0.866, 0.5), (1.0, 1.0), (rng.uniform(0.75, 1.0), rng.uniform(0.5, 1))))
        corners = [(0.0, -1.0), (half, base), (-half, base)]
    else:
        inner = rng.choice((0.382, 0.382, 0.4, 0.45, 0.5))
        corners = [
            (radius * math.sin(math.pi * step / 5), -radius * math.cos(math.pi * step / 5))
            for step, radius in enumerate([1.0, inner] * 5)
        ]
    turn = math.radians(rng.uniform(-20, 20)) if rng.random() < 0.6 else 0.0
    reach = max(math.hypot(x, y) for x, y in corners)
    cos, sin = math.cos(turn) / reach, math.sin(turn) / reach
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def _paint(canvas: Image.Image, shape: Shape, rng: Random, antialias: bool) -> None:
    scale = 1 if not antialias else (2 if shape.radius > 60 else 4)
    left, top = math.floor(shape.x - shape.radius), math.floor(shape.y - shape.radius)
    side = math.ceil(2 * shape.radius) + 2
    mask = Image.new("L", (side * scale, side * scale), 0)
    pen = ImageDraw.Draw(mask)
    x, y, radius = (shape.x - left) * scale, (shape.y - top) * scale, shape.radius * scale
    if shape.kind == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    else:
        pen.polygon([(x + radius * px, y + radius * py) for px, py in _outline(shape.kind, rng)], fill=255)
    if scale > 1:
        mask = mask.reduce(scale)
    canvas.paste(shape.rgb, (left, top), mask)
    if rng.random() < 0.08:
        _edge(canvas, shape, mask, (left, top))


def _edge(canvas: Image.Image, shape: Shape, mask: Image.Image, corner: tuple[int, int]) -> None:
    """Draw a thin darker rim along the inside of the shape."""
    inner = mask.filter(ImageFilter.MinFilter(3))
    rim = Image.fromarray(np.asarray(mask) - np.minimum(np.asarray(inner), np.asarray(mask)))
    red, green, blue = shape.rgb
    canvas.paste((red * 3 // 5, green * 3 // 5, blue * 3 // 5), corner, rim)


def _compress(picture: Image.Image, quality: int | None) -> Image.Image:
    if quality is None:
        return picture
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
