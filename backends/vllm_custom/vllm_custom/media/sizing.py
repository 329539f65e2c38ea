"""Decide, once a worker has looked at an item, what it is resized to and which of its frames are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm_custom.contract.settings import Settings
from vllm_custom.engine.vision import Size, VisionBounds, VisionOptions, VisionRules
from vllm_custom.errors import ConfigError, UnsupportedError, invalid
from vllm_custom.media.decoders.job import CHANNELS, IMAGE_BYTES, MOST_FRAMES, Answer, Job
from vllm_custom.media.decoders.listed_frames import LISTED_RATE, READER
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.vision_options import RAW_RATE, SAMPLE_RATE, check_bounds

_REQUIRED = "a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model, and the Python package qwen-vl-utils on the server"


@dataclass(frozen=True)
class Plan:
    """How an item is decoded.

    Attributes:
        job: for the worker, with the bytes of the result.
        metadata: of a video; None where they are what the worker says.
    """

    job: Job
    metadata: Mapping[str, Any] | None = None


class Sizing:
    """The model's own rules for sizes and frames, where they apply."""

    def __init__(self, settings: Settings, rules: VisionRules | None) -> None:
        """
        Args:
            settings: of the model.
            rules: of qwen-vl-utils; None for other models.

        Raises:
            ConfigError: QWEN_VL_UTILS is set for such a model.
        """
        if settings.qwen_vl_utils and rules is None:
            raise ConfigError(f"config.pbtxt: parameter QWEN_VL_UTILS: expected {_REQUIRED}")
        self._rules = rules
        self._always = settings.qwen_vl_utils
        self._bounds = VisionBounds(settings.image_max_pixels, min(settings.video_max_frames, MOST_FRAMES))

    def options(self, elements: Sequence[MediaElement]) -> list[VisionOptions | None]:
        """For each element what the rules start from; None where they do not apply to it.

        One item in Qwen's form makes them the rules of its whole request.

        Raises:
            InvalidRequestError: an option beyond the model's limits.
            UnsupportedError: options for a model that has no such rules.
        """
        for element in elements:
            self._check(element)
        if not self._apply_to(elements):
            return [element.options if element.listed else None for element in elements]
        return [None if element.modality == "audio" else element.options or {} for element in elements]

    def processor_kwargs(self, elements: Sequence[MediaElement]) -> Mapping[str, Any]:
        """What the model's media processor is told about a request with these elements."""
        sized = any(element.modality != "audio" for element in elements)
        return self._rules.processor_kwargs if self._rules and sized and self._apply_to(elements) else {}

    def plan(self, job: Job, field: str, look: Answer, options: VisionOptions | None) -> Plan:
        """How to decode what a worker has looked at; ``field`` is what the options are keys of.

        Raises:
            InvalidRequestError: the rules do not allow such an item, or its size would be beyond the limits.
        """
        if look.reader == READER:
            return self._plan_list(job, field, look, options or {})
        if options is None or self._rules is None:
            return Plan(replace(job, result_bytes=look.size))
        if job.modality == "image":
            height, width, _ = look.shape
            size = self._rules.image_size(field, (width, height), options, self._bounds)
            return Plan(replace(job, sizes=(size,), result_bytes=size[0] * size[1] * IMAGE_BYTES))
        sampled = self._rules.sample(field, look.total, look.fps, options, self._bounds)
        size = self._rules.frame_size(field, _size(look), len(sampled.indices), options, self._bounds)
        metadata = _metadata(look.fps, look.total / look.fps, sampled.total, sampled.indices)
        return Plan(_frames_job(job, sampled.indices, (size,)), metadata)

    def _plan_list(self, job: Job, field: str, look: Answer, options: VisionOptions) -> Plan:
        count = look.total
        self._check_listed(job.field, count)
        sizes = [_size(look)]
        if self._rules is not None:
            count = self._rules.padded(count)
            sizes = [self._rules.listed_size(field, sizes[0], options, self._bounds)]
            sizes.append(self._rules.frame_size(field, sizes[0], count, options, self._bounds))
        taken = [min(index, look.total - 1) for index in range(count)]
        rate = options.get(SAMPLE_RATE, LISTED_RATE)
        raw = options.get(RAW_RATE, rate)
        return Plan(_frames_job(job, taken, sizes), _metadata(raw, count / rate, count / rate * raw, range(count)))

    def _apply_to(self, elements: Sequence[MediaElement]) -> bool:
        if self._rules is None:
            return False
        return self._always or any(element.options is not None for element in elements)

    def _check_listed(self, field: str, frames: int) -> None:
        if frames > self._bounds.frames:
            expected = f"at most {self._bounds.frames} frames (VIDEO_MAX_FRAMES of this model)"
            raise invalid(field, frames, expected)

    def _check(self, element: MediaElement) -> None:
        self._check_listed(element.field, len(element.listed))
        options = element.options or {}
        special = [name for name in options if name not in (SAMPLE_RATE, RAW_RATE)]
        if special and self._rules is None:
            raise UnsupportedError(f"{element.part}.{special[0]}: requires {_REQUIRED}")
        check_bounds(options, element.part, self._bounds)


def _size(look: Answer) -> Size:
    _, height, width, _ = look.shape
    return width, height


def _frames_job(job: Job, indices: Sequence[int], sizes: Sequence[Size]) -> Job:
    width, height = sizes[-1]
    result_bytes = len(indices) * width * height * CHANNELS
    return replace(job, indices=tuple(indices), sizes=tuple(sizes), result_bytes=result_bytes)


def _metadata(rate: float, seconds: float, total: float, indices: Sequence[int]) -> dict[str, Any]:
    return {
        "fps": rate,
        "duration": seconds,
        "total_num_frames": total,
        "frames_indices": list(indices),
        "do_sample_frames": False,
    }
