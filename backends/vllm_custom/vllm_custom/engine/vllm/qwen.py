"""Sizes and frames as the package qwen-vl-utils chooses them, by its own functions and constants.

Nothing of it fetches or decodes here: it would open any URL and file that a message names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_custom.engine.vision import SampledVideo, Size, VisionBounds, VisionOptions, VisionRules
from vllm_custom.errors import InvalidRequestError, invalid

_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
# Their processors bound all frames of a video together; Qwen says that they are not to size anything again.
_SIZED_ONCE = ("qwen3_vl", "qwen3_vl_moe")
# The package gives this more for each frame than min_pixels where total_pixels allows less.
_ABOVE_MIN = 1.05
_OF_CONTEXT = 0.9


def is_qwen_vl(engine: Any) -> bool:
    """Whether the model is of a family that qwen-vl-utils is made for."""
    return _model_type(engine) in _FAMILIES


def _model_type(engine: Any) -> str:
    """With transformers 4 a configuration may give that of its text model."""
    return str(getattr(engine.model_config.hf_config, "model_type", "")).removesuffix("_text")


def vision_rules(engine: Any) -> VisionRules | None:
    """The rules for this model; None for another family, and where the package is not installed."""
    if not is_qwen_vl(engine):
        return None
    try:
        import qwen_vl_utils.vision_process as package
    except ImportError:
        return None
    config = engine.model_config.hf_config
    return QwenRules(package, int(config.vision_config.patch_size), sized_once=_model_type(engine) in _SIZED_ONCE)


class QwenRules:
    """See :class:`~vllm_custom.engine.vision.VisionRules`."""

    def __init__(self, package: Any, patch_size: int, *, sized_once: bool) -> None:
        self._package = package
        self._factor = patch_size * package.SPATIAL_MERGE_SIZE
        self._processor_kwargs = {"do_resize": False} if sized_once else {}

    @property
    def processor_kwargs(self) -> Mapping[str, Any]:
        return self._processor_kwargs

    def image_size(self, field: str, size: Size, options: VisionOptions, bounds: VisionBounds) -> Size:
        return self._image_size(field, size, self._factor, options, bounds)

    def listed_size(self, field: str, size: Size, options: VisionOptions, bounds: VisionBounds) -> Size:
        # So the package does: it takes the factor for the size of a patch.
        factor = self._factor * self._package.SPATIAL_MERGE_SIZE
        return self._image_size(field, size, factor, options, bounds)

    def frame_size(self, field: str, size: Size, frames: int, options: VisionOptions, bounds: VisionBounds) -> Size:
        area, package = self._factor**2, self._package
        least = options.get("min_pixels", _within(package.VIDEO_MIN_TOKEN_NUM * area, bounds))
        total = options.get("total_pixels", package.MODEL_SEQ_LEN * area * _OF_CONTEXT)
        most = min(package.VIDEO_MAX_TOKEN_NUM * area, total / frames * package.FRAME_FACTOR)
        most = max(most, int(least * _ABOVE_MIN))
        most = min(options.get("max_pixels", most), most)
        return self._resized(field, size, self._factor, options, (least, most), bounds)

    def sample(self, field: str, total: int, rate: float, options: VisionOptions, bounds: VisionBounds) -> SampledVideo:
        import torch

        package = self._package
        try:
            first, last, among = package.calculate_video_frame_range(options, total, rate)
        except ValueError as error:
            times = f"from {options.get('video_start', 0):g} to {options.get('video_end', total / rate):g}"
            raise InvalidRequestError(
                f"{field}: expected video_start and video_end with at least two frames of the video between them, "
                f"which has {total / rate:g} seconds, got {times}"
            ) from error
        given = {"max_frames": min(package.FPS_MAX_FRAMES, bounds.frames), **options}
        try:
            count = package.smart_nframes(given, total_frames=among, video_fps=rate)
        except ValueError as error:
            wanted = f"nframes {options['nframes']}" if "nframes" in options else "fewer"
            expected = f"from {package.FRAME_FACTOR} to {among} frames, as many as there are"
            raise InvalidRequestError(f"{field}: expected {expected}, got {wanted}") from error
        indices = torch.linspace(first, last, count).round().long().tolist()
        return SampledVideo(indices, among)

    def padded(self, frames: int) -> int:
        return int(self._package.ceil_by_factor(frames, self._package.FRAME_FACTOR))

    def _image_size(self, field: str, size: Size, factor: int, options: VisionOptions, bounds: VisionBounds) -> Size:
        least = options.get("min_pixels", _within(self._package.IMAGE_MIN_TOKEN_NUM * factor**2, bounds))
        most = options.get("max_pixels", self._package.IMAGE_MAX_TOKEN_NUM * factor**2)
        return self._resized(field, size, factor, options, (least, most), bounds)

    def _resized(
        self,
        field: str,
        size: Size,
        factor: int,
        options: VisionOptions,
        pixels: tuple[float, float],
        bounds: VisionBounds,
    ) -> Size:
        """smart_resize between the fewest and the most ``pixels``, or to the size that was asked for."""
        width, height, between = *size, {}
        if "resized_width" in options and "resized_height" in options:
            width, height = int(options["resized_width"]), int(options["resized_height"])
        else:
            least, most = pixels
            most = max(least, min(most, bounds.pixels)) if "max_pixels" not in options else most
            if most < least:
                raise invalid(f"{field}.max_pixels", most, f"at least min_pixels, which is {least:g}")
            between = {"min_pixels": least, "max_pixels": most}
        try:
            new_height, new_width = self._package.smart_resize(height, width, factor, **between)
        except ValueError as error:
            expected = f"sides of which one is at most {self._package.MAX_RATIO} times the other"
            raise InvalidRequestError(f"{field}: expected {expected}, got {width} x {height}") from error
        if min(new_height, new_width) < 1:
            expected = f"a max_pixels that leaves {factor} pixels for the shorter side"
            raise InvalidRequestError(f"{field}: expected {expected}, got {width} x {height} and {pixels[1]:g}")
        if new_height * new_width > bounds.pixels and (new_width, new_height) != size:
            raise InvalidRequestError(
                f"{field}: expected at most {bounds.pixels} pixels (IMAGE_MAX_PIXELS of this model) after resizing, "
                f"got {new_width} x {new_height} = {new_height * new_width}"
            )
        return int(new_width), int(new_height)


def _within(least: int, bounds: VisionBounds) -> int:
    """The fewest pixels where the request sets no number: so few that there is a size between them and the limit."""
    return min(least, bounds.pixels // 4)
