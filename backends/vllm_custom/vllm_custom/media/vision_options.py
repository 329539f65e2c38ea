"""Sizes and frames that a client asks for with one image or video, in the words of qwen-vl-utils. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vllm_custom.engine.vision import VisionBounds, VisionOptions
from vllm_custom.errors import InvalidRequestError, invalid
from vllm_custom.media.decoders.frames import FrameSampling

_PIXELS = ("min_pixels", "max_pixels")
_SIDES = ("resized_height", "resized_width")
_COUNTS = ("nframes", "min_frames", "max_frames")
_TIMES = ("video_start", "video_end")
_RATES = ("fps", "sample_fps", "raw_fps")
_OF_IMAGES = (*_PIXELS, *_SIDES)
_OF_VIDEOS = (*_OF_IMAGES, "total_pixels", *_COUNTS, *_TIMES, *_RATES)
_NAMES = {"image": _OF_IMAGES, "video": _OF_VIDEOS}
_WHOLE = (*_SIDES, *_COUNTS)
_SMALLEST = dict.fromkeys(_TIMES, 0.0) | dict.fromkeys(_RATES, 0.001)
_LARGEST = 2**53  # larger ones are no whole numbers as floats
# Of a list of frames; the others choose among the frames of a file.
SAMPLE_RATE, RAW_RATE = "sample_fps", "raw_fps"


def read_options(part: Mapping[str, Any], modality: str, field: str) -> dict[str, float]:
    """The options among the keys of a message's part.

    Args:
        part: of a message; other keys are not looked at.
        modality: of the part; audio has no options.
        field: of the part, for messages.

    Raises:
        InvalidRequestError: an option is no positive number, or contradicts another one.
    """
    options = {name: part[name] for name in _NAMES.get(modality, ()) if part.get(name) is not None}
    for name, value in options.items():
        _check_number(f"{field}.{name}", name, value)
    for one, other in (_SIDES, _SIDES[::-1]):
        if one in options and other not in options:
            raise InvalidRequestError(f"{field}.{one}: expected {other} as well, got {one} alone")
    if "fps" in options and "nframes" in options:
        raise InvalidRequestError(f"{field}.nframes: expected either fps or nframes, got both")
    if options.get("video_start", 0) >= options.get("video_end", math.inf):
        raise invalid(f"{field}.video_end", options["video_end"], f"more than video_start ({options['video_start']:g})")
    return options


def check_bounds(options: VisionOptions, field: str, bounds: VisionBounds) -> None:
    """Compare what is asked for with the model's limits, before anything is read.

    Raises:
        InvalidRequestError: names the option and the limit.
    """
    for name in _PIXELS:
        if options.get(name, 0) > bounds.pixels:
            raise invalid(f"{field}.{name}", options[name], f"at most {bounds.pixels} (IMAGE_MAX_PIXELS of this model)")
    if options.get("max_pixels", math.inf) < options.get("min_pixels", 0):
        raise invalid(f"{field}.max_pixels", options["max_pixels"], f"at least min_pixels ({options['min_pixels']:g})")
    height, width = (int(options.get(name, 0)) for name in _SIDES)
    if height * width > bounds.pixels:
        expected = f"at most {bounds.pixels} pixels with resized_width (IMAGE_MAX_PIXELS of this model)"
        raise InvalidRequestError(f"{field}.resized_height: expected {expected}, got {height} x {width}")
    for name in _COUNTS:
        if options.get(name, 0) > bounds.frames:
            raise invalid(f"{field}.{name}", options[name], f"at most {bounds.frames} (VIDEO_MAX_FRAMES of this model)")


def with_sampling(options: VisionOptions, frames: FrameSampling) -> VisionOptions:
    """The options of a video with what the request asks for in other ways; the video's own come first."""
    if "fps" in options or "nframes" in options or not frames.asked:
        return options
    # Without a rate: as many as there are, up to max_frames.
    asked: dict[str, float] = {"fps": math.inf if frames.fps is None else frames.fps}
    if frames.num_frames is not None:
        asked["max_frames"] = frames.num_frames
    return {**asked, **options}


def name_of(options: VisionOptions) -> str:
    """Options as a part of the name of an item: the same for the same options, whatever their order."""
    return ",".join(f"{name}={float(options[name])!r}" for name in sorted(options))


def _check_number(field: str, name: str, value: Any) -> None:
    least: float = _SMALLEST.get(name, 1)
    number = isinstance(value, int if name in _WHOLE else (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= _LARGEST:
        kind = "a whole number" if name in _WHOLE else "a number"
        raise invalid(field, value, f"{kind} from {least:g} to {_LARGEST}")
