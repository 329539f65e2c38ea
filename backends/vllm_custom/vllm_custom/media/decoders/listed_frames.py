"""Decode a video that came as its frames by the rules of qwen-vl-utils, which takes all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.animation import Allocate, new_array
from vllm_custom.media.decoders.frame_list import unpack_frames
from vllm_custom.media.decoders.frames import Look, Size
from vllm_custom.media.decoders.image import ORDINARY, decode_image, shown_size
from vllm_custom.media.decoders.job import CHANNELS, ImageRules

READER = "pillow"
LISTED_RATE = 2.0  # frames per second where a request does not say; what qwen-vl-utils takes


def look_at_frame_list(data: bytes, field: str, max_pixels: int, rules: ImageRules = ORDINARY) -> Look:
    """What the video is like. Raises as :func:`decode_frame_list` does, from the headers alone."""
    sizes = [shown_size(frame, name, max_pixels, rules) for frame, name in _frames(data, field)]
    for index, (width, height) in enumerate(sizes):
        if (width, height) != sizes[0]:
            expected = f"the size of the first frame, {sizes[0][0]} x {sizes[0][1]}"
            raise InvalidRequestError(f"{field}[{index}]: expected {expected}, got {width} x {height}")
    width, height = sizes[0]
    return Look(height, width, LISTED_RATE, len(sizes))


def decode_frame_list(
    data: bytes,
    field: str,
    max_pixels: int,
    sizes: Sequence[Size] = (),
    indices: Sequence[int] = (),
    allocate: Allocate = new_array,
    rules: ImageRules = ORDINARY,
) -> npt.NDArray[np.uint8]:
    """The frames, uint8 [frames, height, width, 3].

    Args:
        data: what ``is_frame_list`` knows.
        field: name and index for messages, e.g. ``"video[0]"``.
        max_pixels: width times height of a frame that is accepted.
        sizes: what each frame is resized to, one after the other.
        indices: the frames that are taken, in order; a frame may be taken several times. Empty takes each once.
        allocate: gives the array that the frames are written to.
        rules: what is opened, and what shows through.

    Raises:
        InvalidRequestError: a frame is not an image, too large, damaged, or of another size than the first.
    """
    look = look_at_frame_list(data, field, max_pixels, rules)
    width, height = sizes[-1] if sizes else (look.width, look.height)
    wanted = np.asarray(indices or range(look.total))
    frames = allocate((len(wanted), height, width, CHANNELS))
    for index, (frame, name) in enumerate(_frames(data, field)):
        if index in wanted:
            frames[wanted == index] = np.asarray(decode_image(frame, name, max_pixels, sizes, rules))
    return frames


def _frames(data: bytes, field: str) -> Iterator[tuple[bytes, str]]:
    """Each frame, and what messages call it."""
    try:
        frames = unpack_frames(data)
    except ValueError as error:
        raise InvalidRequestError(f"{field}: expected a video, got {error}") from error
    for index, frame in enumerate(frames):
        yield bytes(frame), f"{field}[{index}]"
