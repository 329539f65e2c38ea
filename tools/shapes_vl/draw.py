"""Draws the pictures and clips that the model learns from. Needs Pillow and numpy only.

Everything is drawn from a `random.Random`, so a seed gives the same picture again. Lengths are in pixels of the
finished picture, colours are RGB triples from 0 to 255, and shapes are listed from left to right.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, tuple[RGB, ...]] = {
    "red": ((255, 0, 0), (220, 30, 35), (200, 20, 20), (237, 28, 36), (230, 50, 45)),
    "green": ((0, 128, 0), (0, 200, 0), (0, 255, 0), (30, 160, 60), (34, 139, 34), (60, 180, 75)),
    "blue": ((0, 0, 255), (30, 60, 200), (25, 90, 220), (20, 40, 160), (50, 120, 230)),
    "yellow": ((255, 255, 0), (250, 225, 30), (255, 235, 60), (240, 220, 0), (255, 215, 0)),
    "orange": ((255, 165, 0), (255, 140, 0), (245, 130, 30), (255, 127, 14), (240, 120, 10)),
    "purple": ((128, 0, 128), (150, 50, 180), (130, 40, 160), (160, 32, 240), (102, 51, 153)),
    "black": ((0, 0, 0), (15, 15, 15), (30, 30, 33)),
    "white": ((255, 255, 255), (247, 247, 247), (250, 250, 242)),
}
KINDS = ("circle", "square", "triangle", "star")
DIRECTIONS: dict[str, Point] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
BACKGROUNDS = ("plain", "gradient", "noise", "texture")

MIN_CONTRAST = 100.0
"""Least distance in RGB space between a shape and its background."""
MIN_RADIUS_PX = 10.0
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
    """What a picture shows, from left to right."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Style:
    """How a picture is drawn, apart from what it shows."""

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
    """Draw one to four shapes (or `count`) on a picture of `size` (width, height)."""
    rng = _generator(seed)
    style = style or random_style(rng)
    scene = random_scene(rng, size, count or rng.randint(1, 4))
    canvas = _ground(rng, size, style, [shape.rgb for shape in scene.shapes])
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
    """Write the digits `text`, about `digit_px` high, on a picture of `size`; smaller where they would not fit."""
    rng = _generator(seed)
    style = style or random_style(rng)
    ink = _near(rng, rng.choice(COLOURS[rng.choice(tuple(COLOURS))]), 12)
    canvas = _ground(rng, size, style, [ink])
    mask = _digits(rng, text, digit_px, (0.94 * size[0], 0.9 * size[1]), style.antialias)
    left = rng.randint(0, max(0, size[0] - mask.width))
    top = rng.randint(0, max(0, size[1] - mask.height))
    canvas.paste(ink, (left, top), mask)
    return _compress(canvas, style.jpeg_quality)


def draw_clip(
    seed: int | Random, direction: str, size: tuple[int, int] = (112, 112), frames: int = 8, style: Style | None = None
) -> Clip:
    """Draw one shape that crosses at least a quarter of the picture in `direction`, over a still background."""
    rng = _generator(seed)
    style = style or random_style(rng)
    width, height = size
    short = min(size)
    radius = rng.uniform(max(MIN_RADIUS_PX, 0.08 * short), 0.24 * short)
    shape = _named_shape(rng, 0.0, 0.0, radius)
    ground = _ground(rng, size, style, [shape.rgb])
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
    rgb = _near(rng, rng.choice(COLOURS[colour]), 10)
    return Shape(colour, rng.choice(KINDS), x, y, radius, rgb)


def _near(rng: Random, colour: RGB, spread: int) -> RGB:
    red, green, blue = (min(255, max(0, channel + rng.randint(-spread, spread))) for channel in colour)
    return red, green, blue


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


def _ground(rng: Random, size: tuple[int, int], style: Style, inks: list[RGB]) -> Image.Image:
    first = _contrasting(rng, inks)
    if style.background == "plain":
        return Image.new("RGB", size, first)
    if style.background == "gradient":
        return _gradient(rng, size, first, _contrasting(rng, inks, near=first))
    if style.background == "noise":
        return _noisy(rng, size, first)
    return _textured(rng, size, first, _contrasting(rng, inks, near=first))


def _contrasting(rng: Random, inks: list[RGB], near: RGB | None = None) -> RGB:
    """A colour far from all `inks`; with `near`, one not far from it, so that shapes stay visible between both."""
    best, best_distance = (128, 128, 128), -1.0
    for _ in range(40):
        colour = _candidate(rng) if near is None else _near(rng, near, 60)
        distance = min(math.dist(colour, ink) for ink in inks)
        if distance >= MIN_CONTRAST + 10:
            return colour
        if distance > best_distance:
            best, best_distance = colour, distance
    return best if near is None or best_distance > MIN_CONTRAST else near


def _candidate(rng: Random) -> RGB:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(_COMMON_GROUNDS)
    if kind < 0.55:
        level = rng.randint(0, 255)
        return _near(rng, (level, level, level), 12)
    if kind < 0.75:
        return rng.randint(170, 255), rng.randint(170, 255), rng.randint(170, 255)
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def _gradient(rng: Random, size: tuple[int, int], first: RGB, last: RGB) -> Image.Image:
    ramp = {0: Image.linear_gradient, 1: Image.radial_gradient}[int(rng.random() < 0.2)]("L")
    ramp = ramp.rotate(rng.choice((0, 90, 180, 270))).resize(size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", size, last), Image.new("RGB", size, first), ramp)


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Standard normal noise, shape (512, 512, 3), cut and repeated for every picture to save time."""
    return np.random.default_rng(7).standard_normal((_NOISE_SIDE, _NOISE_SIDE, 3)).astype(np.float32)


def _noise_tile(rng: Random, width: int, height: int, grey: bool) -> np.ndarray:
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


def _compress(picture: Image.Image, quality: int | None) -> Image.Image:
    if quality is None:
        return picture
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


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


def _digits(rng: Random, text: str, digit_px: float, room: tuple[float, float], antialias: bool) -> Image.Image:
    """A mask of the written number that fits into `room` (width, height)."""
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
