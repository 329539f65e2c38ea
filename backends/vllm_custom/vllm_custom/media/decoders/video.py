"""Decode a video to evenly spread frames with the metadata that vLLM's video models need.

With PyAV, which vLLM has for audio, and not with vLLM's reader of videos: the OpenCV 5.0 in that one ends the process
on some damaged files, and reads whatever FFmpeg reads. The frames and the metadata are those that it would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.animation import (
    Allocate,
    Video,
    decode_animation,
    is_animation,
    look_at_animation,
    measure_animation,
    new_array,
)
from vllm_custom.media.decoders.containers import open_container
from vllm_custom.media.decoders.frame_list import is_frame_list
from vllm_custom.media.decoders.frames import FrameSampling, Look, Size, check_decode_budget, fit
from vllm_custom.media.decoders.image import ORDINARY, check_pixels
from vllm_custom.media.decoders.job import CHANNELS, ImageRules
from vllm_custom.media.decoders.sequence import decode_sequence, measure_sequence

if TYPE_CHECKING:
    from av.container import InputContainer

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
_CODECS = "h264,hevc,mpeg4,vp8,libvpx,vp9,libvpx-vp9,av1,libdav1d"
_EXPECTED = "MP4 or WebM (H.264, H.265, MPEG-4, VP8, VP9, AV1), GIF, animated WebP or PNG"
_UNKNOWN_RATE = 24  # frames a second; what transformers takes where a file does not say
_THREADS = 4  # each holds a frame


def measure_video(
    data: bytes,
    field: str,
    max_pixels: int,
    max_decode_pixels: int,
    sampling: FrameSampling,
    rules: ImageRules = ORDINARY,
) -> int:
    """How many bytes the frames of :func:`decode_video` have at most, from the header alone. Raises as it does."""
    if is_frame_list(data):
        return measure_sequence(data, field, max_pixels, sampling, rules)
    if is_animation(data):
        return measure_animation(data, field, max_pixels, max_decode_pixels, sampling)
    with _opened(data, field, max_pixels, max_decode_pixels) as decoder:
        return decoder.measure(sampling)


def look_at_video(data: bytes, field: str, max_pixels: int, max_decode_pixels: int) -> Look:
    """What the video is like as it is shown, for which its first frame is decoded. Raises as :func:`decode_video`."""
    if is_animation(data):
        return look_at_animation(data, field, max_pixels, max_decode_pixels)
    with _opened(data, field, max_pixels, max_decode_pixels) as decoder:
        return decoder.look()


def decode_video(
    data: bytes,
    field: str,
    max_pixels: int,
    max_decode_pixels: int,
    sampling: FrameSampling,
    allocate: Allocate = new_array,
    rules: ImageRules = ORDINARY,
) -> Video:
    """The frames that ``sampling`` asks for, uint8 [frames, height, width, 3], and their metadata.

    Args:
        data: an encoded file.
        field: name and index for messages, e.g. ``"video[0]"``.
        max_pixels: width times height of a frame that is accepted.
        max_decode_pixels: pixels of all frames that would have to be decoded to reach the last one taken.
        sampling: how many frames are taken.
        allocate: gives the array that the frames are written to.
        rules: how frames are read that are images.

    Raises:
        InvalidRequestError: not a video, too large (both limits are checked before anything is decoded), or damaged.
        UnsupportedError: PyAV is not installed.
    """
    if is_frame_list(data):
        return decode_sequence(data, field, max_pixels, sampling, allocate, rules)
    if is_animation(data):
        return decode_animation(data, field, max_pixels, max_decode_pixels, sampling, allocate, rules.background)
    with _opened(data, field, max_pixels, max_decode_pixels) as decoder:
        return decoder.decode(sampling, allocate)


@contextmanager
def _opened(data: bytes, field: str, max_pixels: int, max_decode_pixels: int) -> Iterator[_VideoDecoder]:
    options = {"format_whitelist": _FORMATS, "codec_whitelist": _CODECS, "max_pixels": str(max_pixels)}
    with open_container(data, field, "video", options, _EXPECTED) as container:
        yield _VideoDecoder(container, field, max_pixels, max_decode_pixels)


class _VideoDecoder:
    """The first video stream of an open file."""

    def __init__(self, container: InputContainer, field: str, max_pixels: int, max_decode_pixels: int) -> None:
        self._container = container
        self._stream = container.streams.video[0]
        self._field = field
        self._max_decode_pixels = max_decode_pixels
        codec = self._stream.codec_context
        self._size = (codec.width, codec.height)
        check_pixels(self._size, field, max_pixels)
        codec.thread_type = "AUTO"
        codec.thread_count = _THREADS
        codec.options = {"max_pixels": str(max_pixels)}  # a later frame may be larger than the header says

    def measure(self, sampling: FrameSampling) -> int:
        rate, total = self._rate_and_total()
        width, height = self._size
        return len(sampling.indices(total, total / rate)) * width * height * CHANNELS

    def look(self) -> Look:
        rate, total = self._rate_and_total()
        for frame in self._shown():
            height, width, _ = _apply_rotation(frame).shape
            return Look(height, width, rate, total)
        raise self._empty()

    def decode(self, sampling: FrameSampling, allocate: Allocate) -> Video:
        rate, total = self._rate_and_total()
        size = sampling.resized
        frames, passed = self._frames(sampling.indices(total, total / rate), size, allocate)
        if passed < total and len(frames) < len(sampling.indices(total, total / rate)) and passed:
            # Packets may hold no frame of their own, or one that is not to be shown.
            total = passed
            self._container.seek(0)
            frames, _ = self._frames(sampling.indices(total, total / rate), size, allocate)
        if not len(frames):
            raise self._empty()
        metadata = {
            "fps": rate,
            "duration": total / rate,
            "total_num_frames": total,
            "frames_indices": sampling.indices(total, total / rate)[: len(frames)],
            "video_backend": "pyav",
            "do_sample_frames": False,
        }
        return frames, metadata

    def _empty(self) -> InvalidRequestError:
        return InvalidRequestError(f"{self._field}: the video has no frame that can be decoded")

    def _rate_and_total(self) -> tuple[float, int]:
        """Frames per second, and how many there are, which are not too many."""
        rate = float(self._stream.average_rate or self._stream.guessed_rate or _UNKNOWN_RATE)
        total = self._stream.frames or self._from_duration(rate) or self._count_packets()
        check_decode_budget(self._size, total, self._field, self._max_decode_pixels)
        return rate, total

    def _frames(self, wanted: list[int], size: Size | None, allocate: Allocate) -> tuple[npt.NDArray[np.uint8], int]:
        """The frames at the indices ``wanted``, as far as there are any, and how many were gone through."""
        frames: npt.NDArray[np.uint8] = np.empty((0, 0, 0, CHANNELS), np.uint8)
        shape: tuple[int, ...] = ()
        taken = passed = 0
        for frame in self._shown():
            if passed == wanted[taken]:
                image = _apply_rotation(frame)
                fitted = fit(image, size)
                if not taken:
                    shape, frames = image.shape, allocate((len(wanted), *fitted.shape))
                if image.shape != shape:
                    raise InvalidRequestError(f"{self._field}: the frames of the video differ in size")
                while taken < len(wanted) and wanted[taken] == passed:
                    frames[taken] = fitted
                    taken += 1
            passed += 1
            if taken == len(wanted):
                break
        return frames[:taken], passed

    def _shown(self) -> Iterator[Any]:
        """All frames. Packets count as work whether or not they give any: a file may hide them from the viewer."""
        packets = 0
        for packet in self._container.demux(self._stream):
            packets += packet.size > 0
            check_decode_budget(self._size, packets, self._field, self._max_decode_pixels)
            yield from packet.decode()

    def _from_duration(self, rate: float) -> int:
        return round((self._container.duration or 0) / 1_000_000 * rate)

    def _count_packets(self) -> int:
        """For recordings that were written without going back to note how long they are."""
        count = sum(packet.size > 0 for packet in self._container.demux(self._stream))
        self._container.seek(0)
        return count


def _apply_rotation(frame: Any) -> npt.NDArray[np.uint8]:
    """The frame as it is to be shown: apply the rotation metadata that phones record."""
    image: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
