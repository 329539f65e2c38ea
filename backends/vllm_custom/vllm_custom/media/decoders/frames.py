"""Which frames of a video are taken: how many, and how many per second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_custom.errors import InvalidRequestError, MediaLimitError, invalid
from vllm_custom.media.decoders.job import COLOUR, Colour, colour_of

Size = tuple[int, int]  # width, height
# Small frames cost as much as this one: without it a file of a few bytes could announce billions of them.
_SMALLEST_FRAME_PIXELS = 256 * 256
_BACKGROUND = "rgba_background_color"
_IO_KWARGS = f'{{"video": {{"num_frames": ..., "fps": ...}}, "image": {{"{_BACKGROUND}": ...}}}}'


def check_decode_budget(size: Size, total: int, field: str, max_decode_pixels: int) -> None:
    """Refuse a video of ``total`` frames of ``size`` (width, height) that are more than ``max_decode_pixels`` pixels.

    All of them have to be decoded to reach the last one, and a file of few bytes can hold many large ones.
    """
    width, height = size
    pixels = total * max(width * height, _SMALLEST_FRAME_PIXELS)
    if pixels > max_decode_pixels:
        raise MediaLimitError(
            f"{field}: expected at most {max_decode_pixels} pixels to decode in this format (VIDEO_MAX_PIXELS of this "
            f"model), got {pixels} in {total} frames of {width} x {height}",
            "pixels",
        )


def _background(options: Mapping[str, Any]) -> Colour | None:
    for name in options:
        if name != _BACKGROUND:
            raise InvalidRequestError(f"media_io_kwargs.image.{name}: unknown option; expected {_BACKGROUND}")
    value = options.get(_BACKGROUND)
    if value is None:
        return None
    colour = colour_of(value)
    if colour is None:
        raise invalid(f"media_io_kwargs.image.{_BACKGROUND}", value, COLOUR)
    return colour


@dataclass(frozen=True)
class FrameSampling:
    """At most ``num_frames`` frames, at most ``fps`` per second, spread evenly. None means not requested.

    Attributes:
        asked: whether a request or the operator asks for it, and not only the limit of the model.
        background: what the request wants to see where its images are transparent; None leaves it to the model.
    """

    num_frames: int | None = None
    fps: float | None = None
    asked: bool = field(default=False, compare=False)
    background: Colour | None = None

    @property
    def resized(self) -> Size | None:
        """What each frame is resized to; None where it stays as it is."""
        return None

    @classmethod
    def parse(cls, options: Mapping[str, Any], field: str) -> FrameSampling:
        """Read ``options`` in vLLM's terms.

        Args:
            options: ``num_frames`` and ``fps``; either may be absent.
            field: what precedes the names in messages.

        Raises:
            InvalidRequestError: an unknown name, or a value that is not a positive number.
        """
        for name, value in options.items():
            if name not in ("num_frames", "fps"):
                raise InvalidRequestError(f"{field}{name}: unknown option; expected num_frames or fps")
            numbers = int if name == "num_frames" else (int, float)
            if isinstance(value, bool) or not isinstance(value, numbers) or not 0 < value < math.inf:
                kind = "a whole number of at least 1" if name == "num_frames" else "a number greater than 0"
                raise invalid(f"{field}{name}", value, kind)
        return cls(options.get("num_frames"), options.get("fps"))

    @classmethod
    def requested(cls, num_frames: int | None, fps: float | None, media_io_kwargs: Mapping[str, Any]) -> FrameSampling:
        """What a request asks for, by parameters of their own or in ``media_io_kwargs`` as vLLM's server takes them.

        Raises:
            InvalidRequestError: another option in ``media_io_kwargs``, or an option given twice.
        """
        for modality, options in media_io_kwargs.items():
            if modality not in ("video", "image") or not isinstance(options, Mapping):
                raise invalid("media_io_kwargs", media_io_kwargs, _IO_KWARGS)
        nested = media_io_kwargs.get("video", {})
        plain = {name: value for name, value in (("num_frames", num_frames), ("fps", fps)) if value is not None}
        if twice := sorted(plain.keys() & nested.keys()):
            raise InvalidRequestError(f"{twice[0]}: expected once, got it in media_io_kwargs as well")
        made = cls.parse({**nested, **plain}, "media_io_kwargs.video." if nested else "")
        return replace(made, background=_background(media_io_kwargs.get("image", {})))

    def within(self, limit: int, default: FrameSampling) -> FrameSampling:
        """The same with an upper limit; ``default`` is what counts where nothing is asked for.

        Raises:
            InvalidRequestError: more frames than ``limit`` are asked for.
        """
        if self.num_frames is None and self.fps is None:
            asked = default.num_frames is not None or default.fps is not None
            return FrameSampling(min(default.num_frames or limit, limit), default.fps, asked, self.background)
        if self.num_frames is not None and self.num_frames > limit:
            raise InvalidRequestError(
                f"num_frames: expected at most {limit} (VIDEO_MAX_FRAMES of this model), got {self.num_frames}"
            )
        return FrameSampling(self.num_frames or limit, self.fps, True, self.background)

    def indices(self, total: int, seconds: float) -> list[int]:
        """The frames to take of a video of ``total`` frames, at least one; the same as vLLM's reader takes."""
        count = min(total, self.num_frames or total)
        if self.fps is not None:
            count = min(count, math.floor(seconds * self.fps))
        return [int(index) for index in np.linspace(0, total - 1, max(count, 1), dtype=int)]


@dataclass(frozen=True)
class ChosenFrames(FrameSampling):
    """Frames that were chosen before, each of them resized to ``size``."""

    chosen: tuple[int, ...] = ()
    size: Size | None = None

    @property
    def resized(self) -> Size | None:
        return self.size

    def indices(self, total: int, seconds: float) -> list[int]:
        """The same as were chosen; where a file has fewer frames than its header says, the last stands for those."""
        return [min(index, total - 1) for index in self.chosen]


@dataclass(frozen=True)
class Look:
    """A video as it is shown: pixels, frames per second, and how many frames there are."""

    height: int
    width: int
    rate: float
    total: int


def fit(frame: npt.NDArray[np.uint8], size: Size | None) -> npt.NDArray[np.uint8]:
    """A frame, [height, width, 3], resized to ``size``, as qwen-vl-utils does; None leaves it as it is."""
    if size is None or frame.shape[1::-1] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
