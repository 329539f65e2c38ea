"""Jobs for a worker and the worker's answers: small JSON messages, with the data in two memory files.

The answer comes from a process that has seen hostile bytes, so :meth:`Answer.parse` believes nothing of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vllm_custom.contract.image_formats import SAFE_FORMATS

Colour = tuple[int, int, int]  # red, green, blue
WHITE: Colour = (255, 255, 255)
COLOUR = "a list of three whole numbers from 0 to 255"
CHANNELS = 3  # of frames
IMAGE_BYTES = 4  # a pixel of mode RGB in Pillow's memory, the fourth unused
SAMPLE_BYTES = 4  # of audio, as float32
MAX_MESSAGE = 131_072  # bytes; less than a socket of this kind takes
MOST_FRAMES = 10_000  # that can be named in a message
MAX_TEXT = 1000  # characters of an error
_MAX_SIZE = 1 << 48
_HIGHEST_RATE = 1_000_000  # in Hz
_ERRORS = ("", "invalid", "limit", "unsupported", "memory")
_TEXTS = ("error", "message", "rule", "reader")


def colour_of(value: Any) -> Colour | None:
    """A colour in JSON; None where it is none."""
    parts = list(value) if isinstance(value, (list, tuple)) else []
    if len(parts) == 3 and all(type(part) is int and 0 <= part <= 255 for part in parts):
        return parts[0], parts[1], parts[2]
    return None


@dataclass(frozen=True)
class ImageRules:
    """How images of one model are read.

    Attributes:
        formats: what is opened, by Pillow's names.
        background: what shows where an image is transparent.
    """

    formats: tuple[str, ...] = SAFE_FORMATS
    background: Colour = WHITE


@dataclass(frozen=True)
class Job:
    """One item for a worker; its file comes as a descriptor with the message, and so does the memory for the result.

    Attributes:
        modality: image, video or audio.
        field: name and index for messages, e.g. ``"image[0]"``.
        size: bytes of the file.
        result_bytes: size of the memory for the result; 0 asks only how many bytes the result may have at most.
        max_pixels: width times height of an image or frame.
        max_decode_pixels: pixels of all frames of a video together.
        max_seconds: of audio.
        rate: samples per second of the result; None keeps the file's.
        num_frames: frames that are taken of a video.
        fps: frames that are taken of each second of it.
        indices: the frames that are taken of a video, in place of num_frames and fps.
        sizes: width and height that the image or each frame is resized to, one after the other.
        images: how images are read; of a video, what shows where its frames are transparent.
        exact: whether the question is also what the item looks like as it is shown.
        cpu_seconds: time on all cores together, after which the worker ends.
    """

    modality: str
    field: str
    size: int
    result_bytes: int = 0
    max_pixels: int = 0
    max_decode_pixels: int = 0
    max_seconds: int = 0
    rate: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    indices: Sequence[int] = ()
    sizes: Sequence[tuple[int, int]] = ()
    exact: bool = False
    images: ImageRules = ImageRules()
    cpu_seconds: int = 0

    def to_bytes(self) -> bytes:
        """The message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, message: bytes) -> Job:
        """The opposite of :meth:`to_bytes`."""
        content = json.loads(message)
        content["indices"] = tuple(content["indices"])
        content["sizes"] = tuple(map(tuple, content["sizes"]))
        images = content["images"]
        content["images"] = ImageRules(tuple(images["formats"]), tuple(images["background"]))
        return cls(**content)


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
        error: why there is no result: invalid, limit, unsupported or memory; empty if there is one.
        message: for the client.
        rule: what metrics call the limit.
        size: at most so many bytes will be decoded, where that was the question.
        shape: of the result: [height, width, 4], [frames, height, width, 3] or [samples]. Where the question was exact,
            what the result would be if nothing were resized, and all frames taken.
        rate: samples per second.
        fps: frames per second of the whole video.
        duration: of the whole video, in seconds.
        total: its number of frames.
        reader: the library that read it.
    """

    error: str = ""
    message: str = ""
    rule: str = ""
    size: int = 0
    shape: tuple[int, ...] = ()
    rate: int = 0
    fps: float = 0.0
    duration: float = 0.0
    total: int = 0
    reader: str = ""

    def to_bytes(self) -> bytes:
        """The message."""
        return json.dumps({name: value for name, value in asdict(self).items() if value}).encode()

    @classmethod
    def parse(cls, message: bytes) -> Answer:
        """The opposite of :meth:`to_bytes`, for a message that may say anything.

        Raises:
            ValueError: a name, type or value that no worker of ours sends.
        """
        try:
            content = json.loads(message)
        except RecursionError as error:
            raise ValueError("not an answer: too deep") from error
        if not isinstance(content, dict) or not content.keys() <= cls.__dataclass_fields__.keys():
            raise ValueError("not an answer")
        for name, value in content.items():
            if not _is_possible(name, value):
                raise ValueError(f"not an answer: {name}")
        if content.get("error", "") not in _ERRORS:
            raise ValueError("not an answer: error")
        return cls(**{**content, "shape": tuple(content.get("shape", ()))})

    def size_for(self, job: Job) -> int:
        """Bytes of the result; 0 for what no worker that works makes of the job."""
        shape = self.shape
        size = math.prod(shape)
        if job.sizes and list(shape[-3:-1]) != [*job.sizes[-1]][::-1]:
            return 0
        if job.modality == "audio":
            heard = len(shape) == 1 and 0 < self.rate <= _HIGHEST_RATE and self.rate == (job.rate or self.rate)
            return size * SAMPLE_BYTES if heard else 0
        if job.modality == "image":
            return size if len(shape) == 3 and shape[2] == IMAGE_BYTES else 0
        seen = len(shape) == 4 and shape[3] == CHANNELS and shape[0] <= self.total and self.fps > 0
        if job.indices and shape[:1] != (len(job.indices),):
            return 0
        return size if seen else 0

    def looks_possible(self, job: Job) -> bool:
        """Whether this answers an exact question about the job; nothing of the answer is zero, or beyond the limits."""
        sides = 3 if job.modality == "image" else 4
        if len(self.shape) != sides or min(self.shape) < 1 or math.prod(self.shape[-3:-1]) > job.max_pixels:
            return False
        return job.modality == "image" or (self.fps > 0 and self.total > 0)


def _is_possible(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()
    if name == "shape":
        return isinstance(value, list) and len(value) <= 4 and all(_is_count(side) for side in value)
    if name in ("fps", "duration"):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return _is_count(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_SIZE
