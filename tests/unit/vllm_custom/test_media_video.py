"""Clips become evenly spread frames with their metadata."""

import struct
from pathlib import Path

import fakes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import BLACK, BLUE, GREEN, RED, WHITE, encode, gif, halves
from PIL import Image

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.video import decode_video

pytestmark = [pytest.mark.usefixtures("vllm"), pytest.mark.filterwarnings("ignore:::PIL")]

COLOURS = [RED, GREEN, BLUE, BLACK, WHITE, RED]


def decode(data: bytes, max_frames: int = 32, max_pixels: int = 1_000_000):
    return decode_video(data, "video[0]", max_pixels, max_frames)


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Ten frames, from black to white, ten a second."""
    cv2 = pytest.importorskip("cv2")
    path: Path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("OpenCV cannot write MP4 here")
    for grey in np.linspace(0, 255, 10):
        writer.write(np.full((48, 64, 3), grey, np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_gif_gives_all_frames_where_they_are_few() -> None:
    frames, metadata = decode(gif(COLOURS, duration=50))
    assert frames.dtype == np.uint8
    assert frames.shape == (6, 8, 16, 3)
    assert [tuple(frame[4, 8]) for frame in frames] == COLOURS
    assert metadata == {
        "fps": pytest.approx(20.0),
        "duration": pytest.approx(0.3),
        "total_num_frames": 6,
        "frames_indices": [0, 1, 2, 3, 4, 5],
        "video_backend": "opencv",
        "do_sample_frames": False,
    }


@pytest.mark.parametrize(
    ("max_frames", "indices"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (5, [0, 1, 2, 3, 5]), (6, [0, 1, 2, 3, 4, 5])]
)
def test_frames_are_spread_evenly(max_frames: int, indices: list[int]) -> None:
    frames, metadata = decode(gif(COLOURS), max_frames)
    assert metadata["frames_indices"] == indices
    assert [tuple(frame[4, 8]) for frame in frames] == [COLOURS[index] for index in indices]
    assert metadata["total_num_frames"] == 6


def test_a_gif_without_durations_runs_at_ten_frames_a_second() -> None:
    assert decode(gif(COLOURS))[1]["fps"] == pytest.approx(10.0)


def test_a_still_gif_is_a_clip_of_one_frame() -> None:
    frames, metadata = decode(gif([RED]))
    assert len(frames) == 1
    assert metadata["total_num_frames"] == 1


def test_frames_above_the_pixel_limit_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"video\[0\]: 16 x 8 = 128 pixels; IMAGE_MAX_PIXELS"):
        decode(gif(COLOURS), max_pixels=127)


def test_a_few_bytes_that_redraw_a_large_picture_many_times_are_refused() -> None:
    """10,000 frames of one pixel each, on a screen of 1,000 x 1,000."""
    header = b"GIF89a" + struct.pack("<HHBBB", 1000, 1000, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"\x21\xf9\x04\x08\x01\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    assert decode(header + frame * 32 + b";")[1]["total_num_frames"] == 32
    with pytest.raises(
        InvalidRequestError, match=r"10000 frames of 1000 x 1000 .* IMAGE_MAX_PIXELS x VIDEO_MAX_FRAMES"
    ):
        decode(header + frame * 10_000 + b";")


def test_a_cut_off_gif_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), "GIF")
    with pytest.raises(InvalidRequestError, match=r"video\[0\]: the GIF file is damaged"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF8", b"\0\0\0\x20ftypisom" + bytes(100)])
def test_what_is_no_clip_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"^video\[0\]: "):
        decode(data)


def test_a_picture_is_no_clip_or_a_clip_of_one_frame() -> None:
    made, error = fakes.outcome(lambda: decode(encode(halves(), "PNG")))
    assert str(error).startswith("video[0]: ") if error else len(made[0]) == 1


def test_an_mp4_is_read_by_vllms_reader(mp4: bytes) -> None:
    frames, metadata = decode(mp4, max_frames=4)
    assert frames.shape == (4, 48, 64, 3)
    assert frames.dtype == np.uint8
    brightness = frames.mean(axis=(1, 2, 3))
    assert list(brightness) == sorted(brightness)
    assert (brightness[0], brightness[-1]) == (pytest.approx(0, abs=8), pytest.approx(255, abs=8))
    assert metadata["do_sample_frames"] is False
    assert metadata["fps"] == pytest.approx(10.0)
    assert metadata["total_num_frames"] == 10
    assert list(metadata["frames_indices"]) == [0, 3, 6, 9]


def test_an_mp4_above_the_pixel_limit_is_refused(mp4: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"video\[0\]: frames of 64 x 48; IMAGE_MAX_PIXELS"):
        decode(mp4, max_pixels=64 * 48 - 1)


def test_a_cut_off_mp4_is_refused(mp4: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"^video\[0\]: not a clip that can be decoded"):
        decode(mp4[: len(mp4) // 2])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_gifs_give_frames_or_our_error(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(gif(COLOURS))
    for place, value in changes:
        damaged[4 + place % (len(damaged) - 4)] = value
    made, error = fakes.outcome(lambda: decode(bytes(damaged)))
    assert str(error).startswith("video[0]: ") if error else len(made[0]) == len(made[1]["frames_indices"])
