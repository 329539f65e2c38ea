"""Images, numbers and videos for tests of the model `shapes_vl`, drawn in another way than those it learnt from.

Shapes are computed as fields of distances and sampled nine times per pixel; backgrounds are sums of waves, blots, grain
or tiles; digits come in fonts that the training does not use where they are found, else in Pillow's own. Needs Pillow
and numpy only.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Floats = npt.NDArray[np.float64]

PALETTE = {
    "red": (228, 22, 28),
    "green": (24, 150, 44),
    "blue": (24, 64, 222),
    "yellow": (252, 232, 20),
    "orange": (250, 142, 12),
    "purple": (138, 34, 162),
    "black": (8, 8, 8),
    "white": (252, 252, 252),
}
KINDS = ("circle", "square", "triangle", "star")
GROUNDS = ("flat", "waves", "blots", "grain", "tiles")
CHINESE = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "orange": "橙色",
    "purple": "紫色",
    "black": "黑色",
    "white": "白色",
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星形",
}
_HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_CONTRAST = 110
_UNSEEN_FONTS = ("DejaVuSansCondensed.ttf", "DejaVuSansCondensed-Bold.ttf", "DejaVuSerifCondensed.ttf")


@dataclass(frozen=True)
class Picture:
    """An image and the (colour, kind) of its shapes from left to right."""

    image: Image.Image
    shapes: list[tuple[str, str]]

    def answer(self, language: str = "en") -> str:
        """The description that the model should give, in "en" or "zh"."""
        if language == "zh":
            return _list([f"一个{CHINESE[colour]}的{CHINESE[kind]}" for colour, kind in self.shapes], "、", "和")
        words = [f"{'an' if colour == 'orange' else 'a'} {colour} {kind}" for colour, kind in self.shapes]
        return _list(words, ", ", " and ")

    def encoded(self, file_format: str = "PNG", **options: int) -> bytes:
        return encode(self.image, file_format, **options)


def answer_each(pictures: list[Picture], language: str = "en") -> str:
    """The answer to `Describe each image.`"""
    said = [f"{number}: {picture.answer()}" for number, picture in enumerate(pictures, 1)]
    if language == "zh":
        return "；".join(f"{number}：{picture.answer('zh')}" for number, picture in enumerate(pictures, 1))
    return "; ".join(said)


def encode(image: Image.Image, file_format: str = "PNG", **options: int) -> bytes:
    """The image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(
    seed: int,
    size: tuple[int, int] = (224, 224),
    count: int | None = None,
    shapes: list[tuple[str, str]] | None = None,
    ground: str | None = None,
    jpeg: int | None = None,
) -> Picture:
    """Draw `shapes`, else `count` random ones, else one to four; with `jpeg`, through a JPEG file of that quality."""
    rng = np.random.default_rng([seed, *size])
    if shapes is None:
        number = count or int(rng.integers(1, 5))
        shapes = [(str(rng.choice(list(PALETTE))), str(rng.choice(KINDS))) for _ in range(number)]
    spots = _spots(rng, size, len(shapes))
    inks = [_tinted(rng, PALETTE[colour]) for colour, _ in shapes]
    field = _ground(rng, size, inks, ground or str(rng.choice(GROUNDS)))
    for (_, kind), ink, spot in zip(shapes, inks, spots, strict=True):
        _stamp(field, kind, ink, spot, tilt=float(rng.uniform(-0.25, 0.25)))
    return Picture(_finished(field, jpeg), list(shapes))


def number_picture(
    seed: int,
    text: str | None = None,
    size: tuple[int, int] = (224, 224),
    height: float | None = None,
    ground: str | None = None,
    jpeg: int | None = None,
) -> tuple[Image.Image, str]:
    """Write `text` (else 2 to 4 random digits), `height` pixels high; returns the image and the digits."""
    rng = np.random.default_rng([seed, *size, 1])
    if text is None:
        digits = int(rng.integers(2, 5))
        text = str(rng.integers(10 ** (digits - 1), 10**digits))
    short = min(size)
    height = height or float(rng.uniform(max(15.0, 0.12 * short), 0.45 * short))
    mask = _written(text, height, (0.92 * size[0], 0.9 * size[1]), str(rng.choice(_font_files())))
    ink = _tinted(rng, PALETTE[str(rng.choice(["black", "white", "red", "blue", "green", "purple"]))])
    field = _ground(rng, size, [ink], ground or str(rng.choice(GROUNDS)))
    top = int(rng.integers(0, size[1] - mask.shape[0] + 1))
    left = int(rng.integers(0, size[0] - mask.shape[1] + 1))
    _blend(field[top : top + mask.shape[0], left : left + mask.shape[1]], ink, mask)
    return _finished(field, jpeg), text


def clip(
    seed: int, direction: str, size: tuple[int, int] = (112, 112), frames: int = 8, ground: str | None = None
) -> list[Image.Image]:
    """Frames of one shape that moves across the image towards `direction`."""
    rng = np.random.default_rng([seed, *size, frames])
    ink = _tinted(rng, PALETTE[str(rng.choice(list(PALETTE)))])
    kind = str(rng.choice(KINDS))
    field = _ground(rng, size, [ink], ground or str(rng.choice(GROUNDS)))
    radius = float(rng.uniform(max(11.0, 0.1 * min(size)), 0.2 * min(size)))
    room = np.array(size) - 2 * radius - 2
    heading = np.array(_HEADINGS[direction])
    travel = float(rng.uniform(0.55, 0.95)) * room * heading
    begin = np.where(heading == 0, rng.uniform(0, 1) * room, np.where(heading > 0, 0.02, 0.98) * room) + radius + 1
    shown = []
    for step in range(frames):
        x, y = begin + travel * step / (frames - 1)
        frame = field.copy()
        _stamp(frame, kind, ink, (float(x), float(y), radius), tilt=0.0)
        shown.append(_finished(frame, None))
    return shown


def gif(frames: list[Image.Image], milliseconds: int = 200, file_format: str = "GIF") -> bytes:
    """The frames as an animated GIF, or WebP or PNG."""
    buffer = io.BytesIO()
    frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def _list(names: list[str], comma: str, last: str) -> str:
    return names[0] if len(names) == 1 else comma.join(names[:-1]) + last + names[-1]


def _tinted(rng: np.random.Generator, colour: tuple[int, int, int]) -> Floats:
    tinted: Floats = np.clip(np.array(colour) + rng.uniform(-8, 8, 3), 0, 255)
    return tinted


def _spots(rng: np.random.Generator, size: tuple[int, int], count: int) -> list[tuple[float, float, float]]:
    """Places (x, y, radius) from left to right: one in each of `count` columns, not in the others' way."""
    width, height = size
    column = width / count
    spots = []
    for number in range(count):
        most = min(0.42 * height, 0.47 * column)
        least = min(most, max(10.5, 0.07 * min(size)))
        radius = float(rng.uniform(least, most))
        slack = max(0.0, (column - 2 * radius - 2) / 2)
        x = column * (number + 0.5) + float(rng.uniform(-slack, slack)) * 0.9
        y = float(rng.uniform(radius + 1, height - radius - 1))
        spots.append((x, y, radius))
    return spots


def _ground(rng: np.random.Generator, size: tuple[int, int], inks: list[Floats], kind: str) -> Floats:
    """A background (height, width, 3), every tone of which is far from all inks."""
    base = _far(rng, inks)
    field = np.broadcast_to(base, (size[1], size[0], 3)).copy()
    y, x = np.mgrid[: size[1], : size[0]] / min(size)
    swing = min(30.0, 0.5 * (min(float(np.linalg.norm(base - ink)) for ink in inks) - 80) / 1.8)
    tint = rng.uniform(0.4, 1, 3) * swing
    if kind == "waves":
        angle, pace = rng.uniform(0, np.pi), rng.uniform(2, 14)
        field += np.sin(pace * (x * np.cos(angle) + y * np.sin(angle)))[..., None] * tint
    elif kind == "blots":
        for _ in range(5):
            centre = rng.uniform(0, 1.2, 2)
            spread = rng.uniform(0.02, 0.2)
            field += (np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / spread)[..., None] - 0.3) * tint * 0.6
    elif kind == "grain":
        field += rng.normal(0, rng.uniform(3, 14), field.shape)
    elif kind == "tiles":
        count = int(rng.integers(3, 10))
        field += (((x * count).astype(int) + (y * count).astype(int)) % 2)[..., None] * tint
    return np.clip(field, 0, 255)


def _far(rng: np.random.Generator, inks: list[Floats]) -> Floats:
    """The first of 60 random colours that is far from all inks, else the farthest of them."""
    tried = [
        rng.uniform(0, 255, 3) if rng.random() < 0.4 else rng.uniform(0, 255) + rng.uniform(-10, 10, 3)
        for _ in range(60)
    ]
    tried = [np.clip(colour, 0, 255) for colour in tried]
    nearest = [min(float(np.linalg.norm(colour - ink)) for ink in inks) for colour in tried]
    good = [number for number, distance in enumerate(nearest) if distance > _CONTRAST + 20]
    return tried[good[0] if good else int(np.argmax(nearest))]


def _stamp(field: Floats, kind: str, ink: Floats, spot: tuple[float, float, float], tilt: float) -> None:
    """Paint one shape: the share of each pixel that it covers, from nine samples."""
    x, y, radius = spot
    top, left = max(0, int(y - radius) - 1), max(0, int(x - radius) - 1)
    area = field[top : int(y + radius) + 3, left : int(x + radius) + 3]
    steps = (np.arange(3) + 0.5) / 3
    rows = (np.arange(area.shape[0])[:, None] + top + steps).ravel()
    columns = (np.arange(area.shape[1])[:, None] + left + steps).ravel()
    v, u = np.meshgrid((rows - y) / radius, (columns - x) / radius, indexing="ij")
    if kind != "circle":
        u, v = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
    inside = _inside(kind, u, v).astype(float)
    cover = inside.reshape(area.shape[0], 3, area.shape[1], 3).mean(axis=(1, 3))
    _blend(area, ink, cover)


def _inside(kind: str, u: Floats, v: Floats) -> npt.NDArray[np.bool_]:
    """Whether points, in units of the radius with v downwards, lie in the shape."""
    if kind == "circle":
        return np.asarray(np.hypot(u, v) <= 0.97)
    if kind == "square":
        return np.asarray(np.maximum(np.abs(u), np.abs(v)) <= 0.69)
    if kind == "triangle":
        return np.asarray((v <= 0.5) & (np.abs(u) <= (v + 1) / np.sqrt(3)))
    turn = np.mod(np.arctan2(u, -v), 2 * np.pi / 5) - np.pi / 5
    half = np.pi / 5 - np.abs(turn)
    # The edge runs from the tip (distance 1, angle 0) to the notch (distance 0.4, angle 36 degrees).
    notch = 0.4 * np.exp(1j * np.pi / 5)
    point = np.hypot(u, v) * np.exp(1j * half)
    return np.asarray(((notch - 1) * np.conj(point - 1)).imag <= 0)


def _blend(area: Floats, ink: Floats, cover: Floats) -> None:
    area += (ink - area) * cover[..., None]


def _finished(field: Floats, jpeg: int | None) -> Image.Image:
    image = Image.fromarray(field.round().astype(np.uint8))
    return image if jpeg is None else Image.open(io.BytesIO(encode(image, "JPEG", quality=jpeg))).convert("RGB")


def _font_files() -> list[str]:
    """Fonts that the training does not write with; the empty string is Pillow's own."""
    folder = Path("/usr/share/fonts/truetype/dejavu")
    return [str(folder / name) for name in _UNSEEN_FONTS if (folder / name).is_file()] or [""]


def _written(text: str, height: float, room: tuple[float, float], font_file: str) -> Floats:
    """The digits as a mask (rows, columns) from 0 to 1, drawn four times as large and scaled down."""
    large = 4 * height / 0.73
    font = ImageFont.truetype(font_file, round(large)) if font_file else ImageFont.load_default(round(large))
    box = font.getbbox(text)
    image = Image.new("L", (int(box[2] - box[0]) + 8, int(box[3] - box[1]) + 8), 0)
    ImageDraw.Draw(image).text((4 - box[0], 4 - box[1]), text, fill=255, font=font)
    shrink = min(0.25, room[0] / image.width, room[1] / image.height)
    small = image.resize((int(image.width * shrink), int(image.height * shrink)), Image.Resampling.LANCZOS)
    return np.asarray(small, float) / 255
