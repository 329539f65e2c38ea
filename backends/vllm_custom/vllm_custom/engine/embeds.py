"""Outputs of a vision encoder as input instead of images. Checked here: a wrong size would end vLLM's engine.

Pure: arrays in, arrays out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.contract.names import IMAGE_EMBEDS, IMAGE_GRID_THW
from vllm_custom.errors import InvalidRequestError, UnsupportedError, invalid

_TYPES = (np.float16, np.float32)


@dataclass(frozen=True)
class EmbedsLayout:
    """What a model takes.

    Attributes:
        hidden_size: columns of image_embeds.
        merge: each row stands for ``merge`` x ``merge`` patches of image_grid_thw; None for models without a grid,
            whose rows are those of one image.
    """

    hidden_size: int
    merge: int | None


@dataclass(frozen=True)
class ImageEmbeds:
    """Embeddings of one or several images.

    Attributes:
        values: FP16 or FP32 [rows, hidden size], the images one after the other.
        grid: INT64 [images, 3], the patches of each in time, height and width; None where none was sent.
    """

    values: npt.NDArray[Any]
    grid: npt.NDArray[np.int64] | None

    @property
    def count(self) -> int:
        """Number of images."""
        return 1 if self.grid is None else len(self.grid)

    def check(self, layout: EmbedsLayout | None) -> None:
        """Compare with what the model takes; None says that it takes no embeddings.

        Raises:
            UnsupportedError: this model takes none.
            InvalidRequestError: another size than the model's, or rows that do not fit the grid.
        """
        if layout is None:
            raise UnsupportedError(
                f'{IMAGE_EMBEDS}: this model accepts no embeddings; "enable_mm_embeds": true in model.json allows them'
            )
        if self.values.shape[1] != layout.hidden_size:
            raise InvalidRequestError(
                f"{IMAGE_EMBEDS}: expected [rows, {layout.hidden_size}], {layout.hidden_size} being the hidden size of "
                f"this model, got {list(self.values.shape)}"
            )
        if layout.merge is not None:
            self._check_grid(layout.merge)
        elif self.grid is not None:
            raise InvalidRequestError(
                f"{IMAGE_GRID_THW}: this model does not use it; send the {IMAGE_EMBEDS} of one image without it"
            )

    def per_image(self, merge: int | None) -> list[dict[str, npt.NDArray[Any]]]:
        """The fields of each image, under vLLM's names. The embeddings were checked with the same ``merge``."""
        if self.grid is None or merge is None:
            return [{IMAGE_EMBEDS: self.values}]
        ends = np.cumsum([_rows(grid, merge) for grid in self.grid])
        parts = np.split(self.values, ends[:-1])
        return [{IMAGE_EMBEDS: part, IMAGE_GRID_THW: grid} for part, grid in zip(parts, self.grid, strict=True)]

    def _check_grid(self, merge: int) -> None:
        if self.grid is None:
            raise InvalidRequestError(f"{IMAGE_GRID_THW}: required with {IMAGE_EMBEDS}, INT64 [images, 3]")
        for index, grid in enumerate(self.grid):
            if min(grid) < 1 or grid[1] % merge or grid[2] % merge:
                expected = f"time, height and width, the last two multiples of {merge}"
                raise invalid(f"{IMAGE_GRID_THW}[{index}]", grid.tolist(), expected)
        rows = sum(_rows(grid, merge) for grid in self.grid)
        if rows != len(self.values):
            raise InvalidRequestError(
                f"{IMAGE_EMBEDS}: expected {rows} rows (time x height x width / {merge * merge} of {IMAGE_GRID_THW}), "
                f"got {len(self.values)}"
            )


def read_embeds(values: npt.NDArray[Any] | None, grid: npt.NDArray[Any] | None) -> ImageEmbeds | None:
    """The embeddings of a request, without a batch dimension; None where it has none.

    The arrays are copied: the request's own memory is Triton's.

    Raises:
        InvalidRequestError: a shape or type that no model takes, or values that are not finite.
    """
    if values is None:
        if grid is not None:
            raise InvalidRequestError(f"{IMAGE_GRID_THW}: requires {IMAGE_EMBEDS}, which is missing")
        return None
    if values.dtype not in _TYPES or values.ndim != 2 or not values.size:
        raise InvalidRequestError(
            f"{IMAGE_EMBEDS}: expected FP16 or FP32 [rows, hidden size], got {values.dtype} {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise InvalidRequestError(f"{IMAGE_EMBEDS}: contains non-finite values (NaN or infinity)")
    if grid is not None and (not np.issubdtype(grid.dtype, np.integer) or grid.ndim != 2 or grid.shape[1] != 3):
        raise InvalidRequestError(f"{IMAGE_GRID_THW}: expected INT64 [images, 3], got {grid.dtype} {list(grid.shape)}")
    return ImageEmbeds(np.array(values), None if grid is None else grid.astype(np.int64))


def _rows(grid: npt.NDArray[np.int64], merge: int) -> int:
    return math.prod(int(size) for size in grid) // (merge * merge)
