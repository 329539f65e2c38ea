"""Decode a clip to evenly spread frames with the metadata that vLLM's video models need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from vllm_custom import compat
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.image import open_image

Video = tuple[npt.NDArray[np.uint8], dict[str, Any]]

_DEFAULT_FRAME_MILLISECONDS = 100  # what browsers take for a GIF that gives no duration
_ANIMATIONS = (b"GIF8",)


def decode_video(data: bytes, field: str, max_pixels: int, max_frames: int) -> Video:
    """At most ``max_frames`` frames, uint8 [frames, height, width, 3], and their metadata.

    Raises:
        InvalidRequestError: not a clip, too large, or damaged.
    """
    if data.startswith(_ANIMATIONS):
        return _decode_animation(data, field, max_pixels, max_frames)
    try:
        frames, metadata = compat.read_video(data, max_frames)
    except Exception as error:  # OpenCV and the readers around it raise nearly anything on damaged files
        raise InvalidRequestError(f"{field}: not a clip that can be decoded; expected GIF, MP4 or WebM") from error
    if len(frames) == 0:
        raise InvalidRequestError(f"{field}: the clip has no frame that can be decoded")
    if frames.shape[1] * frames.shape[2] > max_pixels:
        raise InvalidRequestError(
            f"{field}: frames of {frames.shape[2]} x {frames.shape[1]}; IMAGE_MAX_PIXELS of this model is {max_pixels}"
        )
    return frames, metadata | {"do_sample_frames": False}


def _decode_animation(data: bytes, field: str, max_pixels: int, max_frames: int) -> Video:
    image = open_image(data, field, max_pixels)
    try:
        total = int(getattr(image, "n_frames", 1))
        _check_work(image, field, total, max_pixels * max_frames)
        wanted = set(np.linspace(0, total - 1, min(total, max_frames), dtype=int).tolist())
        return _frames(image, total, wanted)
    except InvalidRequestError:
        raise
    except Exception as error:
        raise InvalidRequestError(f"{field}: the {image.format} file is damaged and cannot be decoded") from error


def _check_work(image: Image.Image, field: str, total: int, max_pixels: int) -> None:
    """Every frame has to be drawn to reach the next, and a frame of a few bytes can redraw a picture of many pixels."""
    pixels = total * image.width * image.height
    if pixels > max_pixels:
        raise InvalidRequestError(
            f"{field}: {total} frames of {image.width} x {image.height} = {pixels} pixels; "
            f"IMAGE_MAX_PIXELS x VIDEO_MAX_FRAMES of this model is {max_pixels}"
        )


def _frames(image: Image.Image, total: int, wanted: set[int]) -> Video:
    pictures: list[npt.NDArray[np.uint8]] = []
    milliseconds = 0.0
    for index, frame in enumerate(ImageSequence.Iterator(image)):
        milliseconds += float(frame.info.get("duration", 0) or _DEFAULT_FRAME_MILLISECONDS)
        if index in wanted:
            pictures.append(np.asarray(frame.convert("RGB")))
    seconds = milliseconds / 1000
    metadata = {
        "fps": total / seconds,
        "duration": seconds,
        "total_num_frames": total,
        "frames_indices": sorted(wanted),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }
    return np.stack(pictures), metadata
