"""Decode a clip to evenly spread frames with the metadata that vLLM's video models need.

With PyAV, which vLLM has for sound, and not with vLLM's reader of clips: the OpenCV 5.0 in that one ends the process on
some damaged files, and reads whatever FFmpeg reads. The frames and the metadata are those that it would give.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.media.animation import Video, decode_animation, is_animation
from vllm_custom.media.containers import OPEN_OPTIONS
from vllm_custom.media.image import check_pixels
from vllm_custom.media.sampling import FrameSampling, check_work

if TYPE_CHECKING:
    from av.container import InputContainer

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
_CODECS = "h264,hevc,mpeg4,vp8,libvpx,vp9,libvpx-vp9,av1,libdav1d"
_EXPECTED = "MP4 or WebM (H.264, H.265, MPEG-4, VP8, VP9, AV1), GIF, animated WebP or PNG"
_UNKNOWN_RATE = 24  # frames a second; what transformers takes where a file does not say
_THREADS = 4  # each holds a frame


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
        UnsupportedError: PyAV is not installed.
    """
    if is_animation(data):
        return decode_animation(data, field, max_pixels, max_work, sampling)
    try:
        import av
    except ImportError as error:
        raise UnsupportedError(f"{field}: clips need the Python package av, which this server does not have") from error
    options = OPEN_OPTIONS | {"format_whitelist": _FORMATS, "codec_whitelist": _CODECS, "max_pixels": str(max_pixels)}
    try:
        with av.open(io.BytesIO(data), "r", options=options) as container:
            if not container.streams.video:
                raise InvalidRequestError(f"{field}: has no pictures; expected {_EXPECTED}")
            return _Film(container, field, max_pixels, max_work).decode(sampling)
    except InvalidRequestError:
        raise
    except Exception as error:  # FFmpeg's errors and those of the binding around it
        raise InvalidRequestError(f"{field}: not a clip that can be decoded; expected {_EXPECTED}") from error


class _Film:
    """The pictures of an open file."""

    def __init__(self, container: InputContainer, field: str, max_pixels: int, max_work: int) -> None:
        self._container = container
        self._stream = container.streams.video[0]
        self._field = field
        self._max_work = max_work
        codec = self._stream.codec_context
        self._size = (codec.width, codec.height)
        check_pixels(self._size, field, max_pixels)
        codec.thread_type = "AUTO"
        codec.thread_count = _THREADS
        codec.options = {"max_pixels": str(max_pixels)}  # a later frame may be larger than the header says

    def decode(self, sampling: FrameSampling) -> Video:
        rate = float(self._stream.average_rate or self._stream.guessed_rate or _UNKNOWN_RATE)
        total = self._stream.frames or self._from_duration(rate) or self._packets()
        check_work(self._size, total, self._field, self._max_work)
        pictures, shown = self._frames(sampling, total, rate)
        if shown < total and len(pictures) < len(sampling.indices(total, total / rate)):
            # Packets may hold no frame of their own, or one that is not to be shown.
            total = shown
            self._container.seek(0)
            pictures, _ = self._frames(sampling, total, rate)
        if not pictures:
            raise InvalidRequestError(f"{self._field}: the clip has no frame that can be decoded")
        metadata = {
            "fps": rate,
            "duration": total / rate,
            "total_num_frames": total,
            "frames_indices": sampling.indices(total, total / rate)[: len(pictures)],
            "video_backend": "pyav",
            "do_sample_frames": False,
        }
        return np.stack(pictures), metadata

    def _frames(self, sampling: FrameSampling, total: int, rate: float) -> tuple[list[npt.NDArray[np.uint8]], int]:
        """The frames to take of ``total``, and how many were gone through."""
        wanted = set(sampling.indices(total, total / rate)) if total else set()
        pictures: list[npt.NDArray[np.uint8]] = []
        index = -1
        for index, frame in enumerate(self._container.decode(self._stream)):
            if index in wanted:
                pictures.append(_upright(frame))
            if len(pictures) == len(wanted):
                break
        return pictures, index + 1

    def _from_duration(self, rate: float) -> int:
        return round((self._container.duration or 0) / 1_000_000 * rate)

    def _packets(self) -> int:
        """For recordings that were written without going back to note how long they are."""
        count = sum(packet.size > 0 for packet in self._container.demux(self._stream))
        self._container.seek(0)
        return count


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    """The picture as it is to be shown: phones film across and note how the phone was held."""
    picture: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
