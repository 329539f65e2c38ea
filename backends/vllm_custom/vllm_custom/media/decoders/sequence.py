"""Decode frames in hand, each an image of its own, as a video. Frames and metadata are those that vLLM's reader gives.

What they show of time is the client's to say: without ``fps`` a frame stands for a second, and all of them are taken,
or as many as are allowed, spread evenly. The other formats of videos have times of their own.
"""

from __future__ import annotations

import numpy as np

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.animation import Allocate, Video, new_array
from vllm_custom.media.decoders.frame_list import unpack_frames
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoders.image import ORDINARY, decode_image, measure_image
from vllm_custom.media.decoders.job import CHANNELS, IMAGE_BYTES, ImageRules

READER = "jpeg_sequence"  # what vLLM calls it
_FRAMES_PER_SECOND = 1.0


def taken_of(sampling: FrameSampling) -> FrameSampling:
    """Which of the frames are taken: ``fps`` says how they were made, and leaves none of them out."""
    return FrameSampling(sampling.num_frames)


def measure_sequence(
    data: bytes, field: str, max_pixels: int, sampling: FrameSampling, rules: ImageRules = ORDINARY
) -> int:
    """How many bytes the frames of :func:`decode_sequence` have, from the header of the first. Raises as it does."""
    frames = _unpacked(data, field)
    taken = taken_of(sampling).indices(len(frames), 0.0)
    one = measure_image(bytes(frames[0]), f"{field}.frames[0]", max_pixels, rules) // IMAGE_BYTES * CHANNELS
    return len(taken) * one


def decode_sequence(
    data: bytes,
    field: str,
    max_pixels: int,
    sampling: FrameSampling,
    allocate: Allocate = new_array,
    rules: ImageRules = ORDINARY,
) -> Video:
    """As :func:`vllm_custom.media.decoders.video.decode_video`, for what ``is_frame_list`` knows."""
    frames = _unpacked(data, field)
    wanted = taken_of(sampling).indices(len(frames), 0.0)
    images = None
    for place, index in enumerate(wanted):
        image = np.asarray(decode_image(bytes(frames[index]), f"{field}.frames[{index}]", max_pixels, rules=rules))
        if images is None:
            images = allocate((len(wanted), *image.shape))
        if image.shape != images.shape[1:]:
            (height, width, _), (high, wide, _) = images.shape[1:], image.shape
            raise InvalidRequestError(
                f"{field}.frames[{index}]: expected {width} x {height} pixels like the first frame, got {wide} x {high}"
            )
        images[place] = image
    assert images is not None
    rate = sampling.fps or _FRAMES_PER_SECOND
    metadata = {
        "fps": rate,
        "duration": len(frames) / rate,
        "total_num_frames": len(frames),
        "frames_indices": wanted,
        "video_backend": READER,
        "do_sample_frames": False,
    }
    return images, metadata


def _unpacked(data: bytes, field: str) -> list[memoryview]:
    try:
        return unpack_frames(data)
    except ValueError as error:
        raise InvalidRequestError(f"{field}: expected a video, got {error}") from error
