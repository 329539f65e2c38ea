"""The encoder's tower gives what transformers' whole model gives, and what vLLM takes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny_models
from tests.support.shapes import picture
from tools.installer.paths import DEFAULT_REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("vllm"),
    # The libraries' own.
    pytest.mark.filterwarnings("ignore"),
]

SHAPES = DEFAULT_REPOSITORY / "shapes_vl/1/weights"


def tower(weights: Path) -> Any:
    spec = importlib.util.spec_from_file_location("tower", DEFAULT_REPOSITORY / "vision_encoder/1/tower.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VisionTower(weights)


def whole_model(weights: Path, images: list[Any]) -> Any:
    """What the tower inside the whole model says."""
    import torch
    import transformers as t

    inputs = t.AutoImageProcessor.from_pretrained(weights)(images=images, return_tensors="pt")
    model = t.AutoModelForImageTextToText.from_pretrained(weights, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])


def with_random_weights(folder: Path) -> None:
    """A small Qwen3-VL."""
    import torch
    import transformers as t

    tiny_models.qwen3_vl(folder)
    torch.manual_seed(0)
    t.Qwen3VLForConditionalGeneration(t.AutoConfig.from_pretrained(folder)).save_pretrained(folder)


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [picture(number, size=size).image for number, size in enumerate(((112, 112), (224, 168), (140, 196)))]


def test_of_qwen2_5_vl(images: list[Any]) -> None:
    made = tower(SHAPES).encode(images)
    expected = whole_model(SHAPES, images).pooler_output.numpy()
    assert [len(rows) for rows, _ in made] == [int(grid.prod()) // 4 for _, grid in made]
    np.testing.assert_allclose(np.concatenate([rows for rows, _ in made]), expected, atol=1e-5)


def test_of_qwen3_vl_with_its_features_of_several_depths(images: list[Any], tmp_path: Path) -> None:
    with_random_weights(tmp_path)
    made = tower(tmp_path).encode(images)
    expected = whole_model(tmp_path, images)
    side_by_side = np.concatenate([expected.pooler_output, *expected.deepstack_features], axis=1)
    rows = np.concatenate([rows for rows, _ in made])
    assert rows.shape[1] == 2 * 64
    np.testing.assert_allclose(rows, side_by_side, atol=1e-5)


def test_images_together_are_as_each_by_itself(images: list[Any]) -> None:
    encoder = tower(SHAPES)
    for (rows, grid), image in zip(encoder.encode(images), images, strict=True):
        [(alone, its_grid)] = encoder.encode([image])
        assert grid.tolist() == its_grid.tolist()
        np.testing.assert_allclose(rows, alone, atol=1e-5)


def test_a_checkpoint_without_a_tower_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((SHAPES / name).read_text())
    with pytest.raises(ValueError, match="expected a checkpoint with a vision tower"):
        tower(tmp_path)


@pytest.mark.parametrize("model", ["qwen2_5_vl", "qwen3_vl"])
def test_as_onnx(model: str, tmp_path: Path) -> None:
    """The script compares the file with the tower, by onnxruntime, and fails where they differ."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    weights = SHAPES
    if model == "qwen3_vl":
        with_random_weights(weights := tmp_path / "weights")
    script = DEFAULT_REPOSITORY / "vision_encoder/export_onnx.py"
    command = [sys.executable, str(script), str(weights), "112", "168", str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "largest difference from the tower in onnxruntime: " in done.stdout
