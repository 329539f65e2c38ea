"""Sounds become mono samples at one rate, or are refused by name, however large they would become."""

import io
import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import fakes
from tests.support.audio import RATE, Samples, film, greys, sound, tone
from tests.support.images import encode, halves
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders import audio
from vllm_custom.media.decoders.audio import decode_audio

EXPECTED = "expected WAV, FLAC, MP3, AAC, Ogg, or MP4 or WebM with an audio track, got"
TONE = tone()


def decode(data: bytes, max_seconds: int = 60, rate: int | None = RATE) -> Samples:
    samples, decoded_rate = decode_audio(data, "audio[0]", max_seconds, rate)
    assert decoded_rate == (rate or decoded_rate)
    assert (samples.dtype, samples.ndim) == (np.float32, 1)
    return samples


def distance(samples: Samples, reference: Samples) -> float:
    """The largest difference, leaving out the ends, where codecs and filters have their say."""
    count = min(len(samples), len(reference))
    return float(np.abs(samples[:count] - reference[:count])[800:-800].max())


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_wav_of_floats_gives_the_same_samples(subtype: str) -> None:
    assert np.array_equal(decode(sound(TONE, subtype=subtype)), TONE)


@pytest.mark.parametrize(
    ("file_format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 0.01),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "ULAW", 0.02),
        ("WAV", "ALAW", 0.02),
        ("WAV", "MS_ADPCM", 0.05),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("MP3", None, 0.03),
        ("OGG", "VORBIS", 0.03),
    ],
)
def test_every_format_keeps_its_audio(file_format: str, subtype: str | None, tolerance: float) -> None:
    assert distance(decode(sound(TONE, file_format, subtype=subtype)), TONE) < tolerance


def test_opus_keeps_its_pitch() -> None:
    spectrum = np.abs(np.fft.rfft(decode(sound(TONE, "OGG", subtype="OPUS"))[:RATE]))
    assert int(spectrum.argmax()) == 440


@pytest.mark.parametrize(("file_format", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("mov", "libx264")])
def test_the_audio_track_of_a_video_is_taken(file_format: str, codec: str) -> None:
    data = film(greys(), file_format, codec, audio=tone(rate=48_000))
    samples = decode(data)
    assert len(samples) == pytest.approx(RATE, rel=0.05)
    assert int(np.abs(np.fft.rfft(samples[:RATE])).argmax()) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_becomes_the_models(rate: int) -> None:
    samples = decode(sound(tone(rate=rate), rate=rate, subtype="FLOAT"))
    assert len(samples) == pytest.approx(RATE, abs=2)
    assert distance(samples, TONE) < 0.002


def test_without_a_rate_of_the_model_the_files_stays() -> None:
    samples, rate = decode_audio(sound(tone(rate=8_000), rate=8_000, subtype="FLOAT"), "audio[0]", 60, None)
    assert rate == 8_000
    assert np.array_equal(samples, tone(rate=8_000))


@pytest.mark.parametrize("channels", [2, 3, 6, 8, 16, 40])
def test_channels_are_averaged(channels: int) -> None:
    """From eight channels on, PyAV would crash on planes of their own."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, channels)).astype(np.float32)
    decoded = decode(sound(samples, subtype="FLOAT"))
    assert np.abs(decoded - samples.mean(axis=1)).max() < 1e-6


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "MP3"])
def test_longer_audio_is_refused(file_format: str) -> None:
    data = sound(np.zeros(3 * RATE, np.float32), file_format)
    assert len(decode(data, 3)) >= 3 * RATE
    with pytest.raises(
        InvalidRequestError, match=r"audio\[0\]: expected at most 2 seconds \(AUDIO_MAX_SECONDS of this model\)"
    ):
        decode(data, 2)


@pytest.mark.slow
def test_a_few_bytes_that_become_an_hour_are_refused_while_they_unpack() -> None:
    """FLAC of silence takes 50 bytes a second here, and its header does not have to say how long it is."""
    data = bytearray(sound(np.zeros(3600 * RATE, np.int16), "FLAC"))
    assert len(data) < 200_000
    data[21] &= 0xF0  # the number of samples: the lower 36 bits of STREAMINFO's 8 bytes from here
    data[22:26] = bytes(4)
    tracemalloc.start()
    with pytest.raises(InvalidRequestError, match="expected at most 60 seconds"):
        decode(bytes(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2 * 60 * RATE, "more was unpacked than could be used"


def test_many_channels_at_a_high_rate_count_for_more() -> None:
    data = sound(np.zeros((192_000 * 4, 8), np.int16), "FLAC", rate=192_000)
    with pytest.raises(
        InvalidRequestError,
        match=r"at most 96000 samples to decode for each of 10 seconds .* at 192000 Hz in 8 channels",
    ):
        decode(data, 10)
    assert len(decode(data, 64)) == 4 * RATE


def test_a_rate_that_would_multiply_the_samples_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="expected at least 1000 samples per second, got 1"):
        decode(sound(np.zeros(60, np.int16), rate=1))


def test_the_image_on_a_cover_is_not_decoded() -> None:
    """By itself FFmpeg decodes it to learn its size and colours, and it may be far larger than its file."""
    cover = encode(halves(), "PNG")
    frame = b"APIC" + struct.pack(">I", len(cover) + 13) + b"\0\0" + b"\0image/png\0\x03\0" + cover
    length = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    data = b"ID3\x03\0\0" + length + frame + sound(TONE, "MP3")

    def known_colours(options: dict[str, str]) -> str | None:
        with av.open(io.BytesIO(data), options=options) as container:
            return container.streams.video[0].codec_context.pix_fmt

    assert known_colours({}) == "rgb24"
    assert known_colours(audio.OPTIONS) is None
    assert distance(decode(data), TONE) < 0.03


@pytest.mark.parametrize("file_format", ["WAV", "FLAC"])
def test_a_cut_off_file_is_refused(file_format: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)
    data = sound(noise, file_format)
    with pytest.raises(InvalidRequestError, match=r"^audio\[0\]: "):
        decode(data[: len(data) // 2])


def test_a_cut_off_video_is_refused() -> None:
    data = film(greys(), audio=tone(rate=48_000))
    with pytest.raises(InvalidRequestError, match="got a truncated MP4 file, without its index, that"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024, 0])
def test_a_wav_that_was_streamed_has_no_length(size: int) -> None:
    data = bytearray(sound(TONE, subtype="PCM_16"))
    data[4:8] = struct.pack("<I", size)
    data[40:44] = struct.pack("<I", max(size - 36, 0))
    assert len(decode(bytes(data))) == RATE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(InvalidRequestError, match=r"audio\[0\]: contains non-finite samples \(NaN or infinity\)"):
        decode(sound(np.array([0.0, value, 0.1] * 100, np.float32), subtype="FLOAT"))


def test_floats_beyond_full_scale_stay() -> None:
    assert decode(sound(TONE * 4, subtype="FLOAT")).max() > 1.9


def test_a_file_without_samples_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"^audio\[0\]: "):
        decode(sound(TONE[:0]))


def test_a_video_without_audio_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"audio\[0\]: contains no audio stream; expected WAV"):
        decode(film(greys()))


@pytest.mark.parametrize(
    "data", [b"", b"hello" * 100, b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", bytes(1000), encode(halves(), "PNG")]
)
def test_what_is_no_audio_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"^audio\[0\]: "):
        decode(data)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:9,\nfile://{path}\n", "ffconcat version 1.0\nfile '{name}'\n"])
def test_playlists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "secret.wav"
    path.write_bytes(sound(TONE))
    with pytest.raises(InvalidRequestError, match=EXPECTED):
        decode(text.format(path=path, name=path.name).encode())


_VALID = [sound(TONE, *options) for options in (("WAV",), ("FLAC",), ("MP3",), ("OGG",))]
_VALID.append(film(greys(2), audio=tone(seconds=0.1, rate=48_000)))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_VALID), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_files_give_audio_or_our_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    samples, error = fakes.outcome(lambda: decode(bytes(damaged)))
    assert str(error).startswith("audio[0]: ") if error else np.isfinite(samples).all()
