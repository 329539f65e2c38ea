"""The tower as ONNX, for images of one size: `python export_onnx.py WEIGHTS HEIGHT WIDTH OUT.onnx`.

For servers that have the ONNX Runtime backend. The graph takes pixel_values FP32 [patches, values], as the checkpoint's
processor makes them of an image of that size, and gives image_embeds FP32 [rows, hidden size]. One size, since window
attention and positions depend on the grid, and are constants in the graph. It needs the package onnx; with onnxruntime
the file is compared with the tower before this ends.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent / "1"))

from tower import VisionTower

MOST_APART = 1e-3  # of values that are a few units large


class OneSize(torch.nn.Module):
    """The tower for one grid."""

    def __init__(self, tower: VisionTower, grid: torch.Tensor) -> None:
        super().__init__()
        self.model = tower.model
        self._tower = tower
        self._grid = grid

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self._tower.forward(pixel_values, self._grid)


def export(weights: Path, height: int, width: int, out: Path) -> None:
    """Write the file."""
    tower = VisionTower(weights)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    patches, grid = tower.prepare([Image.fromarray(noise)])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: that sizes become numbers is what we want
        expected = tower.forward(patches, grid).numpy()
        torch.onnx.export(
            OneSize(tower, grid),
            (patches,),
            str(out),
            input_names=["pixel_values"],
            output_names=["image_embeds"],
            dynamo=False,  # by tracing
        )
    print(f"{out}: pixel_values {list(patches.shape)} -> image_embeds {list(expected.shape)}, grid {grid[0].tolist()}")
    if importlib.util.find_spec("onnxruntime") is None:
        print("not compared with the tower: onnxruntime is not installed")
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"pixel_values": patches.numpy()})
    apart = float(np.abs(got - expected).max())
    print(f"largest difference from the tower in onnxruntime: {apart:.1e}")
    if apart > MOST_APART:
        sys.exit("the file does not give what the tower gives")


if __name__ == "__main__":
    export(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
