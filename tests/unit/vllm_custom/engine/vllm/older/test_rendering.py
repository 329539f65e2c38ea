"""Prompts as versions of vLLM up to 0.16 render them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_custom.engine.vllm.older.rendering import with_joined_embeds

ROWS = torch.arange(24, dtype=torch.float32).reshape(6, 4)
GRID = torch.tensor([1, 2, 3])


@pytest.mark.parametrize(
    ("embeds", "grid", "images"),
    [
        (ROWS, GRID, 1),
        (torch.stack([ROWS[:3], ROWS[3:]]), torch.stack([GRID, GRID]), 2),
        ([ROWS[:2], ROWS[2:]], torch.stack([GRID, GRID]), 2),
    ],
    ids=["one", "two of one size", "two of two sizes"],
)
def test_embedded_images_of_messages_come_as_those_of_a_text(embeds: Any, grid: Any, images: int) -> None:
    """vLLM 0.13 refused one image, and its engine died of two."""
    media = with_joined_embeds({"image": {"image_embeds": embeds, "image_grid_thw": grid}, "audio": ["a"]})
    assert media is not None
    assert media["audio"] == ["a"]
    assert media["image"]["image_embeds"].equal(ROWS)
    assert media["image"]["image_grid_thw"].equal(GRID.expand(images, 3))


@pytest.mark.parametrize("media", [None, {}, {"image": ["an image"]}, {"image": [ROWS, ROWS]}])
def test_other_media_are_let(media: Any) -> None:
    assert with_joined_embeds(media) is media
