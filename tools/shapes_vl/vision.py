"""How an image becomes rows of pixels: sizes, patches, attention windows and positions.

A patch is 14 by 14 pixels, a unit is 2 by 2 patches (28 pixels, one token for the language model), and a window is
4 by 4 units. Rows are kept in the order of the windows, unit by unit, four patches to the unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

PATCH_PX = 14
MERGE = 2
UNIT_PX = PATCH_PX * MERGE
WINDOW_UNITS = 4
MIN_PIXELS = 56 * 56
MAX_PIXELS = UNIT_PX * UNIT_PX * 1280
MAX_VIDEO_PIXELS = UNIT_PX * UNIT_PX * 768
ROW_BYTES = PATCH_PX * PATCH_PX * 3


@dataclass(frozen=True)
class Layout:
    """The order of an image of `units_high` by `units_wide` units.

    `order` (units,) holds the raster number of each unit in window order, `windows` the patches of each window, and
    `positions` (patches, 2) the row and column of each patch.
    """

    order: npt.NDArray[np.int32]
    windows: tuple[int, ...]
    positions: npt.NDArray[np.int32]


def served_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The size (width, height) to which the image processor scales an image: multiples of 28 within the limits."""
    wide, high = (max(1, round(side / UNIT_PX)) for side in (width, height))
    area = wide * high * UNIT_PX * UNIT_PX
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide, high = (max(1, math.floor(side / shrink / UNIT_PX)) for side in (width, height))
    elif area < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (width * height))
        wide, high = (math.ceil(side * grow / UNIT_PX) for side in (width, height))
    return wide * UNIT_PX, high * UNIT_PX


def pixels(picture: Image.Image, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """The image as the model sees it: uint8, shape (height, width, 3), sides multiples of 28."""
    picture = picture.convert("RGB")
    size = served_size(*picture.size, max_pixels)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture)


@lru_cache(maxsize=4096)
def layout(units_high: int, units_wide: int) -> Layout:
    """Window order and patch positions of a grid of units."""
    rows, columns = np.mgrid[:units_high, :units_wide]
    across = -(-units_wide // WINDOW_UNITS)
    window = (rows // WINDOW_UNITS) * across + columns // WINDOW_UNITS
    order = np.argsort(window.ravel(), kind="stable").astype(np.int32)
    counts = np.bincount(window.ravel())
    corner = np.stack([rows.ravel()[order], columns.ravel()[order]], axis=1) * MERGE
    inside = np.array([(i, j) for i in range(MERGE) for j in range(MERGE)])
    positions = (corner[:, None, :] + inside[None]).reshape(-1, 2).astype(np.int32)
    return Layout(order, tuple(int(count) * MERGE * MERGE for count in counts if count), positions)


def patches(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Cut a frame (height, width, 3) into rows (patches, 588) in window order; a row is 14 by 14 by RGB."""
    high, wide = frame.shape[0] // UNIT_PX, frame.shape[1] // UNIT_PX
    cut = frame.reshape(high, MERGE, PATCH_PX, wide, MERGE, PATCH_PX * 3)
    units = cut.transpose(0, 3, 1, 4, 2, 5).reshape(high * wide, MERGE * MERGE * ROW_BYTES)
    rows: npt.NDArray[np.uint8] = units[layout(high, wide).order].reshape(-1, ROW_BYTES)
    return rows
