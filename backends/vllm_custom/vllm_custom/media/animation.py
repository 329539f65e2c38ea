"""Decode an animated picture as a clip: GIF, WebP, PNG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.image import open_image, to_rgb
from vllm_custom.media.sampling import FrameSampling, check_work

Video = tuple[npt.NDArray[np.uint8], dict[str, Any]]

_DEFAULT_FRAME_MILLISECONDS = 100  # what browsers take for a GIF that gives no duration
_COST = 10  # Pillow takes about this many times as long for a pixel as FFmpeg does


def is_animation(data: bytes) -> bool:
    """Whether a file is one of the formats that Pillow reads frame by frame."""
    return data.startswith((b"GIF8", b"\x89PNG\r\n")) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")


def decode_animation(data: bytes, field: str, max_pixels: int, max_work: int, sampling: FrameSampling) -> Video:
    """As :func:`vllm_custom.media.video.decode_video`, for what :func:`is_animation` knows."""
    image = open_image(data, field, max_pixels)
    try:
        total = int(getattr(image, "n_frames", 1))
        check_work(image.size, total, field, max_work // _COST)
        return _frames(image, field, total, sampling)
    except InvalidRequestError:
        raise
    except Exception as error:
        raise InvalidRequestError(f"{field}: the {image.format} file is damaged and cannot be decoded") from error


def _frames(image: Image.Image, field: str, total: int, sampling: FrameSampling) -> Video:
    # Where a rate is asked for, how long the clip lasts decides which frames are taken.
    seconds = sum(_play(image, field, total)) if sampling.fps is not None else 0.0
    wanted = sampling.indices(total, seconds)
    pictures: list[npt.NDArray[np.uint8]] = []
    seconds = 0.0
    for index, duration in enumerate(_play(image, field, total)):
        seconds += duration
        if index in wanted:
            pictures.append(np.asarray(to_rgb(image)))
    metadata = {
        "fps": total / seconds,
        "duration": seconds,
        "total_num_frames": total,
        "frames_indices": wanted,
        "video_backend": "pillow",
        "do_sample_frames": False,
    }
    return np.stack(pictures), metadata


def _play(image: Image.Image, field: str, total: int) -> Iterator[float]:
    """Make each frame the current one, and give the seconds that it stays."""
    size = image.size
    for index in range(total):
        image.seek(index)
        if image.size != size:
            raise InvalidRequestError(f"{field}: frame {index} is larger than the clip")
        image.load()
        yield float(image.info.get("duration", 0) or _DEFAULT_FRAME_MILLISECONDS) / 1000
