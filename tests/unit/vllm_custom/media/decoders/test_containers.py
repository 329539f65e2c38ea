"""Audio and video files as people send them: odd but playable ones are decoded, and what is refused is named."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.audio import RATE, film, greys, sound, tone
from tests.support.images import encode, halves
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.audio import decode_audio, measure_audio
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoders.kinds import kind_of
from vllm_custom.media.decoders.video import decode_video, measure_video


def heard(data: bytes) -> Any:
    most = measure_audio(data, "audio[0]", 60, RATE)
    samples, rate = decode_audio(data, "audio[0]", 60, RATE)
    assert rate == RATE
    assert samples.nbytes <= most
    return samples


def seen(data: bytes) -> Any:
    limits = ("video[0]", 1_000_000, 1_000_000_000, FrameSampling(4))
    frames, _ = decode_video(data, *limits)
    assert frames.nbytes <= measure_video(data, *limits)
    return frames


def id3(*frames: bytes) -> bytes:
    body = b"".join(frames)
    size = bytes((len(body) >> shift) & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + body


def cover(image: bytes) -> bytes:
    content = b"\0image/png\0\x03\0" + image
    return b"APIC" + struct.pack(">L", len(content)) + b"\0\0" + content


def adts() -> bytes:
    """AAC as it is streamed, without a container."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as container:
        voice = container.add_stream("aac", rate=RATE)
        block = av.AudioFrame.from_ndarray(tone().reshape(1, -1), format="flt", layout="mono")
        block.sample_rate = RATE
        container.mux([*voice.encode(block), *voice.encode(None)])
    return buffer.getvalue()


WAV, MP3 = sound(tone()), sound(tone(), "MP3")
_SOFTWARE = b"LIST" + struct.pack("<L", 26) + b"INFOISFT" + struct.pack("<L", 14) + b"Lavf58.29.100\0"
_LARGE_COVER = encode(Image.fromarray(np.random.default_rng(1).integers(0, 256, (1200, 1200, 3), np.uint8)))
AUDIO_FILES = {
    "no size, as written to a pipe": WAV[:4] + b"\xff" * 4 + WAV[8:40] + b"\xff" * 4 + WAV[44:],
    "sizes of zero": WAV[:4] + bytes(4) + WAV[8:40] + bytes(4) + WAV[44:],
    "a note before the samples": WAV[:4] + struct.pack("<L", len(WAV) + 26) + WAV[8:36] + _SOFTWARE + WAV[36:],
    "a note after them": WAV + _SOFTWARE,
    "an extensible header": sound(tone(), "WAVEX"),
    "24 bits": sound(tone(), subtype="PCM_24"),
    "64-bit sizes": sound(tone(), "RF64"),
    "a cover": id3(cover(encode(halves()))) + MP3,
    "a large cover": id3(cover(_LARGE_COVER)) + MP3,
    "a broken cover": id3(cover(b"no image" * 500)) + MP3,
    "tags at the end": MP3 + b"TAG" + bytes(125),
    "zeros before": bytes(3000) + MP3,
    "tags before FLAC": id3(b"TIT2\0\0\0\2\0\0\0A") + sound(tone(), "FLAC"),
    "zeros after Ogg": sound(tone(), "OGG") + bytes(500),
    "raw AAC": adts(),
}


@pytest.mark.parametrize("name", AUDIO_FILES)
def test_odd_audio_is_heard(name: str) -> None:
    samples = heard(AUDIO_FILES[name])
    assert len(samples) == pytest.approx(RATE, rel=0.13)
    loud = np.abs(np.fft.rfft(samples[4000:12_000])).argmax()
    assert loud == 220, "440 Hz in half a second"


VIDEO_FILES = {
    "more bytes behind": film(greys()) + b"junk" * 100,
    "a live recording": film(greys(), "webm", "libvpx", live=True),
    "Matroska": film(greys(), "matroska"),
    "with sound": film(greys(), audio=tone(rate=48_000)),
}


@pytest.mark.parametrize("name", VIDEO_FILES)
def test_odd_videos_are_seen(name: str) -> None:
    frames = seen(VIDEO_FILES[name])
    assert frames.shape == (4, 48, 64, 3)
    assert frames[:, 20, 20, 0].tolist() == pytest.approx([0, 85, 170, 255], abs=6)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (sound(tone(), "AIFF"), "an AIFF file"),
        (sound(tone(), "AU"), "an AU file"),
        (sound(tone(), "CAF"), "a CAF file"),
        (sound(tone(), "W64"), "a W64 file"),
        (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "a playlist"),
        (encode(halves()), "a PNG image"),
        (b"<html>403</html>", "an HTML page"),
        (bytes(100), "data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_audio_that_is_refused_is_named(data: bytes, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"^audio\[0\]: expected WAV, .*, got {name} that cannot be decoded"):
        heard(data)


def test_so_are_videos() -> None:
    assert kind_of(film(greys(), "avi", "mpeg4")) == "an AVI file"
    with pytest.raises(InvalidRequestError, match="got an MPEG transport stream that cannot be decoded as video"):
        seen(film(greys(), "mpegts"))
    with pytest.raises(InvalidRequestError, match="got a WAV file that cannot be decoded as video"):
        seen(WAV)


def test_an_mp4_that_is_cut_off_before_its_index_is_called_truncated() -> None:
    data = film(greys())
    with pytest.raises(InvalidRequestError, match="got a truncated MP4 file, without its index, that"):
        seen(data[: data.index(b"moov")])
