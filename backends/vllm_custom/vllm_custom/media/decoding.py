"""Files to what vLLM takes, by way of the workers and the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError, shorten
from vllm_custom.media.decoders import sequence
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoders.job import COLOUR, WHITE, Answer, Colour, ImageRules, Job, colour_of
from vllm_custom.media.workers import DecoderPool


class Decoder:
    """Decodes the items of one model, within its limits."""

    def __init__(
        self, settings: Settings, audio_rate: int | None, background: Colour | None, pool: DecoderPool
    ) -> None:
        """
        Args:
            settings: of the model.
            audio_rate: samples per second that audio is converted to; None leaves it as it is.
            background: what shows where an image is transparent; None for white.
            pool: does the work.
        """
        self._images = ImageRules(settings.image_formats, background or WHITE)
        self._settings = settings
        self._audio_rate = audio_rate
        self._pool = pool

    def job(self, modality: str, field: str, frames: FrameSampling) -> Job:
        """What to do with an item; ``frames`` says which frames of a video are taken, and what shows through images."""
        settings = self._settings
        images = self._images
        if modality == "image" and frames.background is not None:
            images = replace(images, background=frames.background)
        return Job(
            modality,
            field,
            size=0,
            max_pixels=settings.image_max_pixels,
            max_decode_pixels=settings.video_max_pixels,
            max_seconds=settings.audio_max_seconds,
            rate=self._audio_rate,
            num_frames=frames.num_frames,
            fps=frames.fps,
            images=images,
        )

    async def decode(
        self,
        job: Job,
        data: bytes | bytearray,
        frames: FrameSampling,
        metadata: Mapping[str, Any] | None = None,
    ) -> Any:
        """The item as vLLM takes it, in at most ``job.result_bytes`` bytes; ``metadata`` are those of a video if known.

        Raises:
            InvalidRequestError: the item is refused, or its worker had to be ended.
            UnavailableError: no worker can be started.
        """
        answer, memory = await self._pool.decode(job, data)
        if job.modality == "image":
            return _image(answer, memory)
        if job.modality == "audio":
            return memory.view(np.float32), answer.rate
        known = None if metadata is None else {**metadata, "video_backend": answer.reader}
        return memory.reshape(answer.shape), known or _metadata(answer, frames)


def _image(answer: Answer, memory: npt.NDArray[np.uint8]) -> Image.Image:
    """On the worker's memory, without a copy.

    So Image.frombuffer makes images of other modes. Of mode RGB it makes copies, and the C library keeps some of their
    memory forever.
    """
    height, width, _ = answer.shape
    core: Any = vars(Image)["core"]
    image = Image.Image()._new(core.map_buffer(memory, (width, height), "raw", 0, ("RGB", 0, 1)))
    image.readonly = 1  # a caller that changes it gets a copy: others may have it as well
    return image


def _metadata(answer: Answer, frames: FrameSampling) -> dict[str, Any]:
    """What vLLM's video models need in addition to the frames."""
    if answer.reader == sequence.READER:
        frames = sequence.taken_of(frames)
    return {
        "fps": answer.fps,
        "duration": answer.duration,
        "total_num_frames": answer.total,
        "frames_indices": frames.indices(answer.total, answer.duration)[: answer.shape[0]],
        "video_backend": answer.reader,
        "do_sample_frames": False,
    }


def background_of(options: Mapping[str, Any]) -> Colour | None:
    """``rgba_background_color`` among the options of images in model.json; None where it is not there.

    Raises:
        ConfigError: it is no colour.
    """
    value = options.get("rgba_background_color")
    if value is None:
        return None
    colour = colour_of(value)
    if colour is None:
        raise ConfigError(
            f"model.json: media_io_kwargs.image.rgba_background_color: expected {COLOUR}, got {shorten(value)}"
        )
    return colour
