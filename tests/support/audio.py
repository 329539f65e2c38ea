"""Audio and videos for tests, made here."""

from __future__ import annotations

import io
from collections.abc import Container, Sequence

import av
import numpy as np
import numpy.typing as npt
import soundfile

RATE = 16_000
Samples = npt.NDArray[np.float32]


def tone(hertz: float = 440, seconds: float = 1.0, rate: int = RATE) -> Samples:
    """A sine at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def sound(
    samples: npt.NDArray[np.generic], file_format: str = "WAV", rate: int = RATE, subtype: str | None = None
) -> bytes:
    """Samples, or [samples, channels], as a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


class _Pipe(io.RawIOBase):
    """Where nobody can go back."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def film(
    frames: Sequence[npt.NDArray[np.uint8]],
    file_format: str = "mp4",
    codec: str = "libx264",
    *,
    rate: int = 10,
    audio: Samples | None = None,
    live: bool = False,
    rotation: int = 0,
    drop: Container[int] = (),
) -> bytes:
    """Frames [height, width, 3] as a video, with 48 kHz ``audio`` as its audio track.

    ``live`` is how a browser's recorder writes it: without going back to note the length. ``rotation`` is how far
    players turn it counterclockwise; packets with the numbers in ``drop`` are left out.
    """
    target = _Pipe() if live else io.BytesIO()
    with av.open(target, "w", format=file_format, options={"live": "1"} if live else {}) as container:
        picture = container.add_stream(codec, rate=rate)
        picture.height, picture.width = frames[0].shape[:2]
        picture.pix_fmt = "yuv420p"
        voice = (
            container.add_stream("libopus" if file_format == "webm" else "aac", rate=48_000)
            if audio is not None
            else None
        )
        if rotation:
            picture.set_display_rotation(rotation)
        pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]
        packets = [packet for frame in (*pictures, None) for packet in picture.encode(frame)]
        container.mux([packet for number, packet in enumerate(packets) if number not in drop])
        if voice is not None and audio is not None:
            block = av.AudioFrame.from_ndarray(audio.reshape(1, -1), format="flt", layout="mono")
            block.sample_rate = 48_000
            container.mux(voice.encode(block))
            container.mux(voice.encode())
    return bytes(target.data) if isinstance(target, _Pipe) else target.getvalue()


def greys(count: int = 10, size: tuple[int, int] = (64, 48)) -> list[npt.NDArray[np.uint8]]:
    """Frames from black to white; ``size`` is width and height."""
    return [np.full((size[1], size[0], 3), grey, np.uint8) for grey in np.linspace(0, 255, count)]
