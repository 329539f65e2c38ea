"""The vision tower of a checkpoint, and nothing else of it: images in, what its language model takes of them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from safetensors import safe_open
from transformers import AutoConfig, AutoImageProcessor, AutoModel

# Where checkpoints have the tower, by age.
_PREFIXES = ("visual.", "model.visual.")
# Of 14 x 14 pixels or so: 16 images of 448 x 448, or three megapixels. What is computed at a time needs memory.
PASS_PATCHES = 16_384


class VisionTower:
    """Qwen2.5-VL's and Qwen3-VL's, which transformers knows by the checkpoint's config.json."""

    def __init__(self, weights: Path, device: str = "cpu", dtype: str = "float32", threads: int = 1) -> None:
        """Read the processor's settings and the tower's weights.

        Args:
            weights: the checkpoint's folder, with config.json, preprocessor_config.json and safetensors.
            device: as torch names it.
            dtype: as torch names it: what is computed in.
            threads: that compute on a CPU. Where others use its cores, they wait for one another.

        Raises:
            ValueError: the folder has no vision tower, or another one than its config.json says.
        """
        torch.set_num_threads(threads)
        config = AutoConfig.from_pretrained(weights).vision_config
        self.processor = AutoImageProcessor.from_pretrained(weights)
        number = getattr(torch, dtype)
        self.model = AutoModel.from_config(config, dtype=number, attn_implementation="sdpa")
        self.model.load_state_dict(_weights_of_the_tower(weights, number))
        self.model.to(device).eval()
        self._merge = int(config.spatial_merge_size) ** 2

    def prepare(self, images: Sequence[Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches [patches, values] and grids [images, 3] (patches in time, height and width)."""
        inputs = self.processor(images=list(images), return_tensors="pt")
        return inputs["pixel_values"], inputs["image_grid_thw"]

    def encode(self, images: Sequence[Image]) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """All images, in one pass as a rule, else in passes of about PASS_PATCHES.

        Returns:
            For each image its rows, FP32 [rows, hidden size], and its grid, INT64 [3]. Qwen3-VL's rows hold the
            features of several depths side by side, as vLLM takes them.
        """
        encoded, waiting, patches = [], [], 0
        for image in images:
            # By itself: all together they would be in memory three times.
            waiting.append(self.prepare([image]))
            patches += len(waiting[-1][0])
            if patches >= PASS_PATCHES:
                encoded += self._encode(waiting)
                waiting, patches = [], 0
        return encoded + self._encode(waiting) if waiting else encoded

    def _encode(
        self, prepared: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """One pass."""
        patches, grid = (torch.cat(parts) for parts in zip(*prepared, strict=True))
        with torch.inference_mode():
            rows = self.forward(patches, grid).float().cpu().numpy()
        ends = np.cumsum(grid.prod(-1).numpy() // self._merge)
        return list(zip(np.split(rows, ends[:-1]), grid.numpy(), strict=True))

    def forward(self, patches: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """The rows of all images, one after the other."""
        model: Any = self.model
        made = model(patches.to(model.device, model.dtype), grid_thw=grid.to(model.device))
        return torch.cat([made.pooler_output, *(getattr(made, "deepstack_features", None) or ())], dim=1)


def _weights_of_the_tower(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """No other part of the checkpoint is read."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - it is no dictionary
                prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None)
                if prefix is not None:
                    found[key.removeprefix(prefix)] = tensors.get_tensor(key).to(dtype)
    if not found:
        raise ValueError("WEIGHTS: expected a checkpoint with a vision tower (visual.*), got one without")
    return found
