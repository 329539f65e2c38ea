"""Decode audio to mono samples at the model's rate; the decoded length is counted while it is decoded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.decoders.containers import open_container

Audio = tuple[npt.NDArray[np.float32], int]

_EXPECTED = "WAV, FLAC, MP3, AAC, Ogg, or MP4 or WebM with an audio track"
# Only audio decoders: FFmpeg would also decode the image on an MP3's cover to learn its size, however large that is.
OPTIONS = {
    "format_whitelist": "wav,flac,mp3,aac,ogg,mov,matroska,webm",
    "codec_whitelist": "pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,pcm_alaw,pcm_mulaw,adpcm_ms,"
    "adpcm_ima_wav,flac,mp3,mp3float,vorbis,opus,libopus,aac,alac",
}
# Formats whose header says how much audio follows. MP3s and Ogg streams may end anywhere.
_DECLARED_LENGTH = {"wav", "flac", "mov"}
_CUT_OFF_SECONDS = 0.5  # tracks are padded to whole packets, so the last ones may differ from the header a little
# As much as stereo at 48 kHz for the whole time: more channels or a higher rate make the time shorter.
_DECODED_SAMPLES_PER_SECOND = 2 * 48_000
_LOWEST_RATE = 1000  # in Hz; each sample of a lower rate would become many
# Writers that cannot go back to their header put a size near the largest there. (RIFF's own sizes are 32 bits.)
_RIFF_STREAMED = 0x7FFF_0000
# Packets may say a little less than comes out of them.
_INEXACT, _INEXACT_SECONDS = 0.05, 1.0
_LOUDEST = 2.0**31  # full scale is 1; some files hold integers as floats


def measure_audio(data: bytes, field: str, max_seconds: int, rate: int | None) -> int:
    """How many bytes the samples of :func:`decode_audio` have at most; nothing is decoded. Raises as it does."""
    with _opened(data, field, max_seconds, rate) as decoder:
        return decoder.measure()


def decode_audio(data: bytes, field: str, max_seconds: int, rate: int | None) -> Audio:
    """The first audio track of a file: float32 [samples], the mean of its channels, and their rate in Hz.

    Args:
        data: an encoded file.
        field: name and index for messages, e.g. ``"audio[0]"``.
        max_seconds: longest audio that is accepted.
        rate: samples per second to convert to; None keeps the file's.

    Raises:
        InvalidRequestError: not audio, too long, damaged or cut off.
        UnsupportedError: PyAV is not installed.
    """
    with _opened(data, field, max_seconds, rate) as decoder:
        return decoder.decode()


@contextmanager
def _opened(data: bytes, field: str, max_seconds: int, rate: int | None) -> Iterator[_AudioDecoder]:
    if _riff_is_cut_off(data):
        raise _cut_off(field)
    with open_container(data, field, "audio", OPTIONS, _EXPECTED) as container:
        yield _AudioDecoder(container, field, max_seconds, rate)


class _AudioDecoder:
    """The first audio stream of an open file."""

    def __init__(self, container: Any, field: str, max_seconds: int, rate: int | None) -> None:
        self._container = container
        self._stream = container.streams.audio[0]
        self._field = field
        self._max_seconds = max_seconds
        self._rate = rate or int(self._stream.rate)

    def measure(self) -> int:
        self._check_declared()
        seconds = 0.0
        for packet in self._container.demux(self._stream):
            if packet.size and not (packet.duration and packet.time_base):  # it does not say
                seconds = self._max_seconds
                break
            seconds += float((packet.duration or 0) * (packet.time_base or 0))
        at_most = min(seconds * (1 + _INEXACT), self._max_seconds) + _INEXACT_SECONDS
        return math.ceil(at_most * self._rate) * np.dtype(np.float32).itemsize

    def decode(self) -> Audio:
        declared = self._check_declared()
        chunks = self._chunks()
        if not any(chunk.size for chunk in chunks):
            raise InvalidRequestError(f"{self._field}: contains no audio samples")
        samples = np.concatenate(chunks)
        if declared is not None and len(samples) / self._rate < declared - _CUT_OFF_SECONDS:
            raise _cut_off(self._field)
        if not np.abs(samples).max() <= _LOUDEST:  # also where one is not a number
            raise InvalidRequestError(f"{self._field}: contains non-finite samples (NaN or infinity)")
        return samples, self._rate

    def _chunks(self) -> list[npt.NDArray[np.float32]]:
        import av

        codec = self._stream.codec_context
        # Interleaved: PyAV 18.1 reads beyond its pointers where eight channels or more have a plane each.
        resampler = av.AudioResampler(format="flt", layout=codec.layout, rate=self._rate)
        if codec.rate < _LOWEST_RATE:
            raise InvalidRequestError(
                f"{self._field}: expected at least {_LOWEST_RATE} samples per second, got {codec.rate}"
            )
        chunks: list[npt.NDArray[np.float32]] = []
        taken = 0
        for frame in itertools.chain(self._container.decode(self._stream), [None]):  # None: what is left over
            if frame is not None:
                taken += frame.samples
                self._check_decode_budget(taken, codec.rate, codec.channels)
            chunks += [
                part.to_ndarray().reshape(part.samples, -1).mean(axis=1, dtype=np.float32)
                for part in resampler.resample(frame)
            ]
        return chunks

    def _check_decode_budget(self, samples: int, rate: int, channels: int) -> None:
        if samples > self._max_seconds * rate:
            raise _too_long(self._field, self._max_seconds)
        if samples * channels > self._max_seconds * _DECODED_SAMPLES_PER_SECOND:
            raise MediaLimitError(
                f"{self._field}: expected at most {_DECODED_SAMPLES_PER_SECOND} samples to decode for each of "
                f"{self._max_seconds} seconds (AUDIO_MAX_SECONDS of this model), got more at {rate} Hz in "
                f"{channels} channels",
                "seconds",
            )

    def _check_declared(self) -> float | None:
        declared = self._declared_seconds()
        if declared is not None and declared > self._max_seconds:
            raise _too_long(self._field, self._max_seconds)
        return declared

    def _declared_seconds(self) -> float | None:
        if self._container.format.name.split(",")[0] not in _DECLARED_LENGTH or not self._stream.duration:
            return None
        return float(self._stream.duration * self._stream.time_base)


def _too_long(field: str, max_seconds: int) -> MediaLimitError:
    return MediaLimitError(
        f"{field}: expected at most {max_seconds} seconds (AUDIO_MAX_SECONDS of this model), got more", "seconds"
    )


def _cut_off(field: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: the file is truncated: it contains less audio than its header declares")


def _riff_is_cut_off(data: bytes) -> bool:
    """FFmpeg takes what is there of a WAV file for the whole."""
    declared = int.from_bytes(data[4:8], "little")
    return (
        data.startswith(b"RIFF")
        and data[8:12] == b"WAVE"
        and declared < _RIFF_STREAMED
        and len(data) - 8 < declared - 1
    )
