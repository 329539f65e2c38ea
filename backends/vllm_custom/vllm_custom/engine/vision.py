"""How a family of vision models wants images sized and frames chosen: what the engine says, and media carry out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

# min_pixels, fps and so on, as a client may send them with an image or a video.
VisionOptions: TypeAlias = Mapping[str, float]
Size: TypeAlias = tuple[int, int]  # width, height


@dataclass(frozen=True)
class VisionBounds:
    """What no option may go beyond.

    Attributes:
        pixels: of an image or a frame.
        frames: that are taken of a video.
    """

    pixels: int
    frames: int


@dataclass(frozen=True)
class SampledVideo:
    """What is taken of a video.

    Attributes:
        indices: the frames.
        total: how many frames they were chosen from.
    """

    indices: Sequence[int]
    total: int


class VisionRules(Protocol):
    """The rules of one model. Each method names ``field``, of the image or video, in what it raises.

    Raises: InvalidRequestError: sides or times that the rules do not allow, or sizes beyond the bounds.
    """

    @property
    def processor_kwargs(self) -> Mapping[str, Any]:
        """What the model's media processor is told about media that were sized by these rules."""

    def image_size(self, field: str, size: Size, options: VisionOptions, bounds: VisionBounds) -> Size:
        """What an image is resized to."""

    def listed_size(self, field: str, size: Size, options: VisionOptions, bounds: VisionBounds) -> Size:
        """What each frame is resized to first, where a video came as a list of frames."""

    def frame_size(self, field: str, size: Size, frames: int, options: VisionOptions, bounds: VisionBounds) -> Size:
        """What each frame of a video is resized to, where so many are taken."""

    def sample(self, field: str, total: int, rate: float, options: VisionOptions, bounds: VisionBounds) -> SampledVideo:
        """Which frames are taken of ``total``, of which there are ``rate`` in a second."""

    def padded(self, frames: int) -> int:
        """How many frames a list is made of at least; the last one is repeated."""
