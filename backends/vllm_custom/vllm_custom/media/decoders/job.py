"""Jobs for a worker and the worker's answers: small JSON messages, with the data in two memory files.

The answer comes from a process that has seen hostile bytes, so :meth:`Answer.parse` believes nothing of it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

CHANNELS = 3  # of frames
IMAGE_BYTES = 4  # a pixel of mode RGB in Pillow's memory, the fourth unused
SAMPLE_BYTES = 4  # of audio, as float32
MAX_MESSAGE = 16_384  # bytes
MAX_TEXT = 1000  # characters of an error
_MAX_SIZE = 1 << 48
_HIGHEST_RATE = 1_000_000  # in Hz
_ERRORS = ("", "invalid", "limit", "unsupported", "memory")
_TEXTS = ("error", "message", "rule", "reader")


@dataclass(frozen=True)
class Job:
    """One item for a worker; its file comes beside the message, and so does the memory for what it becomes.

    Attributes:
        modality: image, video or audio.
        field: name and index for messages, e.g. ``"image[0]"``.
        size: bytes of the file.
        room: bytes of the memory for the result; 0 asks only how many bytes the result may have at most.
        max_pixels: width times height of an image or frame.
        max_decode_pixels: pixels of all frames of a video together.
        max_seconds: of audio.
        rate: samples per second of the result; None keeps the file's.
        num_frames: frames that are taken of a video.
        fps: frames that are taken of each second of it.
        cpu_seconds: time on all cores together, after which the worker ends.
    """

    modality: str
    field: str
    size: int
    room: int = 0
    max_pixels: int = 0
    max_decode_pixels: int = 0
    max_seconds: int = 0
    rate: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    cpu_seconds: int = 0

    def to_bytes(self) -> bytes:
        """The message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, message: bytes) -> Job:
        """The opposite of :meth:`to_bytes`."""
        return cls(**json.loads(message))


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    Attributes:
        error: why there is no result: invalid, limit, unsupported or memory; empty if there is one.
        message: for the client.
        rule: what metrics call the limit.
        size: at most so many bytes will be decoded, where that was the question.
        shape: of the result: [height, width, 4], [frames, height, width, 3] or [samples].
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
        if job.modality == "audio":
            heard = len(shape) == 1 and 0 < self.rate <= _HIGHEST_RATE and self.rate == (job.rate or self.rate)
            return size * SAMPLE_BYTES if heard else 0
        if job.modality == "image":
            return size if len(shape) == 3 and shape[2] == IMAGE_BYTES else 0
        seen = len(shape) == 4 and shape[3] == CHANNELS and shape[0] <= self.total and self.fps > 0
        return size if seen else 0


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
