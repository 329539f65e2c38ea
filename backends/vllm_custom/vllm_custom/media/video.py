"""Decode a clip to evenly spread frames with the metadata that vLLM's video models need."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_custom import compat
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.containers import OPEN_OPTIONS, VIDEO_FORMATS, is_video, restrict_opencv
from vllm_custom.media.image import check_pixels, open_image, to_rgb
from vllm_custom.media.sampling import FrameSampling

Video = tuple[npt.NDArray[np.uint8], dict[str, Any]]

_DEFAULT_FRAME_MILLISECONDS = 100  # what browsers take for a GIF that gives no duration
_EXPECTED = "GIF, animated WebP or PNG, MP4 or WebM"
# Small frames cost as much as this one: without it a file of a few bytes could announce billions of them.
_SMALLEST_FRAME_PIXELS = 256 * 256
_ANIMATION_COST = 10  # Pillow takes about this many times as long for a pixel as FFmpeg does


def decode_video(data: bytes, field: str, max_pixels: int, max_work: int, sampling: FrameSampling) -> Video:
    """The frames that ``sampling`` asks for, uint8 [frames, height, width, 3], and their metadata.

    Args:
        data: an encoded file.
        field: name and index for messages, e.g. ``"video[0]"``.
        max_pixels: width times height of a frame that is accepted.
        max_work: pixels of all frames that would have to be decoded to reach the last one taken.
        sampling: how many frames are taken.

    Raises:
        InvalidRequestError: not a clip, too large (both limits are checked before anything is decoded), or damaged.
    """
    if _is_animation(data):
        return _decode_animation(data, field, max_pixels, max_work, sampling)
    if not is_video(data):
        raise InvalidRequestError(f"{field}: not a clip; expected {_EXPECTED}")
    restrict_opencv()
    try:
        width, height, total = compat.video_header(data)
        if total <= 0:
            data = _with_length(data)
            width, height, total = compat.video_header(data)
        check_pixels((width, height), field, max_pixels)
        _check_work((width, height), total, field, max_work)
        frames, metadata = compat.read_video(data, sampling.num_frames, sampling.fps)
    except InvalidRequestError:
        raise
    except Exception as error:  # OpenCV and the readers around it raise nearly anything on damaged files
        raise InvalidRequestError(f"{field}: not a clip that can be decoded; expected {_EXPECTED}") from error
    if len(frames) == 0:
        raise InvalidRequestError(f"{field}: the clip has no frame that can be decoded")
    return frames, metadata | {"do_sample_frames": False}


def _is_animation(data: bytes) -> bool:
    return data.startswith((b"GIF8", b"\x89PNG\r\n")) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")


def _check_work(size: tuple[int, int], total: int, field: str, max_work: int) -> None:
    """Every frame has to be decoded to reach the next, and a file of few bytes can hold many large ones."""
    width, height = size
    work = total * max(width * height, _SMALLEST_FRAME_PIXELS)
    if work > max_work:
        raise InvalidRequestError(
            f"{field}: {total} frames of {width} x {height} are {work} pixels to decode; VIDEO_MAX_PIXELS of this "
            f"model allows {max_work} in this format"
        )


def _with_length(data: bytes) -> bytes:
    """The same packets in a file whose header says how many: a recording may have been written without going back."""
    import av

    rewritten = io.BytesIO()
    with (
        av.open(io.BytesIO(data), "r", options=OPEN_OPTIONS | {"format_whitelist": VIDEO_FORMATS}) as source,
        av.open(rewritten, "w", format="matroska") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:  # the last one only says that this is the end
                packet.stream = stream
                target.mux(packet)
    return rewritten.getvalue()


def _decode_animation(data: bytes, field: str, max_pixels: int, max_work: int, sampling: FrameSampling) -> Video:
    image = open_image(data, field, max_pixels)
    try:
        total = int(getattr(image, "n_frames", 1))
        _check_work(image.size, total, field, max_work // _ANIMATION_COST)
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
        "video_backend": "opencv",
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
