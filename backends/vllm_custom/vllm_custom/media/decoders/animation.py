"""Decode an animated image as a video: GIF, WebP, PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.frames import FrameSampling, Look, check_decode_budget, fit
from vllm_custom.media.decoders.image import damaged, open_image, to_rgb
from vllm_custom.media.decoders.job import CHANNELS, WHITE, Colour, ImageRules

Video = tuple[npt.NDArray[np.uint8], dict[str, Any]]
# Gives an array for frames, [frames, height, width, 3].
Allocate: TypeAlias = Callable[[tuple[int, ...]], npt.NDArray[np.uint8]]

_DEFAULT_FRAME_MILLISECONDS = 100  # what browsers take for a GIF that gives no duration
_RULES = ImageRules(("GIF", "PNG", "WEBP"))
_COST = 10  # Pillow takes about this many times as long for a pixel as FFmpeg does


def is_animation(data: bytes) -> bool:
    """Whether a file is one of the formats that Pillow reads frame by frame."""
    return data.startswith((b"GIF8", b"\x89PNG\r\n")) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")


def new_array(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An array for frames, where the caller gives no memory for them."""
    return np.empty(shape, np.uint8)


def measure_animation(data: bytes, field: str, max_pixels: int, max_decode_pixels: int, sampling: FrameSampling) -> int:
    """As :func:`vllm_custom.media.decoders.video.measure_video`, for what :func:`is_animation` knows."""
    image, total = _open(data, field, max_pixels, max_decode_pixels)
    # How long the video lasts, which fps would need, is known when all of it has been gone through.
    count = len(FrameSampling(sampling.num_frames).indices(total, 0.0))
    return count * image.width * image.height * CHANNELS


def look_at_animation(data: bytes, field: str, max_pixels: int, max_decode_pixels: int) -> Look:
    """As :func:`vllm_custom.media.decoders.video.look_at_video`, for what :func:`is_animation` knows."""
    image, total = _open(data, field, max_pixels, max_decode_pixels)
    with _damage_reported(image, field):
        return Look(image.height, image.width, total / sum(_play(image, field, total)), total)


def decode_animation(
    data: bytes,
    field: str,
    max_pixels: int,
    max_decode_pixels: int,
    sampling: FrameSampling,
    allocate: Allocate = new_array,
    background: Colour = WHITE,
) -> Video:
    """As :func:`vllm_custom.media.decoders.video.decode_video`, for what :func:`is_animation` knows."""
    image, total = _open(data, field, max_pixels, max_decode_pixels)
    with _damage_reported(image, field):
        return _frames(image, field, total, sampling, allocate, background)


@contextmanager
def _damage_reported(image: Image.Image, field: str) -> Iterator[None]:
    try:
        yield
    except (InvalidRequestError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise damaged(image, field, error) from error


def _open(data: bytes, field: str, max_pixels: int, max_decode_pixels: int) -> tuple[Image.Image, int]:
    """The open file and its number of frames, which are not too many."""
    image = open_image(data, field, max_pixels, _RULES)
    with _damage_reported(image, field):
        total = int(getattr(image, "n_frames", 1))
    check_decode_budget(image.size, total, field, max_decode_pixels // _COST)
    return image, total


def _frames(
    image: Image.Image, field: str, total: int, sampling: FrameSampling, allocate: Allocate, background: Colour
) -> Video:
    # Where a rate is asked for, how long the video lasts decides which frames are taken.
    seconds = sum(_play(image, field, total)) if sampling.fps is not None else 0.0
    wanted = sampling.indices(total, seconds)
    width, height = sampling.resized or image.size
    frames = allocate((len(wanted), height, width, CHANNELS))
    taken = 0
    seconds = 0.0
    for index, duration in enumerate(_play(image, field, total)):
        seconds += duration
        if taken < len(wanted) and index == wanted[taken]:
            frames[taken] = fit(np.asarray(to_rgb(image, background)), sampling.resized)
            taken += 1
    metadata = {
        "fps": total / seconds,
        "duration": seconds,
        "total_num_frames": total,
        "frames_indices": wanted,
        "video_backend": "pillow",
        "do_sample_frames": False,
    }
    return frames, metadata


def _play(image: Image.Image, field: str, total: int) -> Iterator[float]:
    """Make each frame the current one, and give the seconds that it stays."""
    size = image.size
    for index in range(total):
        image.seek(index)
        if image.size != size:
            raise InvalidRequestError(f"{field}: frame {index} is larger than the video")
        image.load()
        yield float(image.info.get("duration", 0) or _DEFAULT_FRAME_MILLISECONDS) / 1000
