"""Videos become evenly spread frames with their metadata."""

import io
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import fakes
from tests.support.audio import film, greys
from tests.support.images import BLACK, BLUE, GREEN, RED, WHITE, encode, gif, halves
from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.decoders import video
from vllm_custom.media.decoders.animation import Video
from vllm_custom.media.decoders.frame_list import pack_frames
from vllm_custom.media.decoders.frames import ChosenFrames, FrameSampling
from vllm_custom.media.decoders.video import decode_video, look_at_video

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

COLOURS = [RED, GREEN, BLUE, BLACK, WHITE, RED]
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
m=video {port} RTP/AVP 96
a=rtpmap:96 H264/90000
"""


def decode(
    data: bytes, frames: int = 32, max_pixels: int = 1_000_000, max_decode_pixels: int = 10**9, fps: float | None = None
) -> Video:
    return decode_video(data, "video[0]", max_pixels, max_decode_pixels, FrameSampling(frames, fps))


@pytest.fixture(scope="module")
def mp4() -> bytes:
    """Ten frames, from black to white, ten a second."""
    return film(greys())


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video._VideoDecoder, "_frames", lambda *_: pytest.fail("decoded"))


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
        "video_backend": "pillow",
        "do_sample_frames": False,
    }


@pytest.mark.parametrize(
    ("frames_taken", "indices"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (5, [0, 1, 2, 3, 5]), (6, [0, 1, 2, 3, 4, 5])]
)
def test_frames_are_spread_evenly(frames_taken: int, indices: list[int]) -> None:
    frames, metadata = decode(gif(COLOURS), frames_taken)
    assert metadata["frames_indices"] == indices
    assert [tuple(frame[4, 8]) for frame in frames] == [COLOURS[index] for index in indices]
    assert metadata["total_num_frames"] == 6


def test_a_gif_without_durations_runs_at_ten_frames_a_second() -> None:
    assert decode(gif(COLOURS))[1]["fps"] == pytest.approx(10.0)


def test_a_still_gif_is_a_video_of_one_frame() -> None:
    frames, metadata = decode(gif([RED]))
    assert len(frames) == 1
    assert metadata["total_num_frames"] == 1


def test_frames_above_the_pixel_limit_are_refused() -> None:
    with pytest.raises(
        InvalidRequestError, match=r"video\[0\]: expected at most .*IMAGE_MAX_PIXELS.* got 16 x 8 = 128"
    ):
        decode(gif(COLOURS), max_pixels=127)


def test_a_few_bytes_that_redraw_a_large_image_many_times_are_refused() -> None:
    """10,000 frames of one pixel each, on a screen of 1,000 x 1,000."""
    header = b"GIF89a" + struct.pack("<HHBBB", 1000, 1000, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"\x21\xf9\x04\x08\x01\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    assert decode(header + frame * 32 + b";")[1]["total_num_frames"] == 32
    with pytest.raises(
        InvalidRequestError,
        match=r"at most 100000000 pixels to decode in this format .* got 10000000000 in 10000 frames of 1000 x 1000",
    ):
        decode(header + frame * 10_000 + b";")


def test_a_frame_beyond_the_video_is_refused() -> None:
    """One pixel, followed by frames that each make the image large."""
    header = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frames = [b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\0" for side in (1, 900, 900)]
    with pytest.raises(
        InvalidRequestError, match=r"video\[0\]: (frame 1 is larger than the video|the GIF file is damaged)"
    ):
        decode(header + b"".join(frames) + b";")


def test_a_cut_off_gif_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), "GIF")
    with pytest.raises(InvalidRequestError, match=r"video\[0\]: the GIF file is truncated"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("image_format", ["WEBP", "PNG"])
def test_other_animations(image_format: str) -> None:
    first, *rest = (Image.new("RGBA", (16, 8), (*colour, 255)) for colour in [*COLOURS[:3], BLACK])
    rest[-1].putalpha(0)  # the last one can be seen through
    data = encode(first, image_format, save_all=True, append_images=rest, duration=200, lossless=True)
    frames, metadata = decode(data)
    assert [tuple(frame[4, 8]) for frame in frames] == [*COLOURS[:3], WHITE]
    assert metadata["fps"] == pytest.approx(5.0)
    assert decode(data, 2)[1]["frames_indices"] == [0, 3]


@pytest.mark.parametrize(("fps", "indices"), [(5, [0, 2, 5]), (100, [0, 1, 2, 3, 4, 5]), (0.1, [0]), (3.5, [0, 5])])
def test_frames_by_rate(fps: float, indices: list[int]) -> None:
    assert decode(gif(COLOURS, duration=100), fps=fps)[1]["frames_indices"] == indices
    assert decode(film(greys(6)), fps=fps)[1]["frames_indices"] == indices


@pytest.mark.parametrize(
    ("file_format", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "libx265"),
        ("mp4", "mpeg4"),
        ("mp4", "libsvtav1"),
        ("mov", "libx264"),
        ("webm", "libvpx"),
        ("webm", "libvpx-vp9"),
        ("matroska", "libx264"),
    ],
)
def test_videos(file_format: str, codec: str) -> None:
    frames, metadata = decode(film(greys(size=(128, 96)), file_format, codec), 4)
    assert frames.shape == (4, 96, 128, 3)
    assert frames.dtype == np.uint8
    brightness = frames.mean(axis=(1, 2, 3))
    assert list(brightness) == pytest.approx([0, 85, 170, 255], abs=12)
    assert metadata["do_sample_frames"] is False
    assert metadata["fps"] == pytest.approx(10.0)
    assert metadata["total_num_frames"] == 10
    assert list(metadata["frames_indices"]) == [0, 3, 6, 9]


@pytest.mark.slow
def test_a_recording_without_a_length_is_taken_whole() -> None:
    """As browsers record."""
    frames, metadata = decode(film(greys(), "webm", "libvpx", live=True), 4)
    assert list(frames.mean(axis=(1, 2, 3))) == pytest.approx([0, 85, 170, 255], abs=12)
    assert metadata["frames_indices"] == [0, 3, 6, 9]


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"GIF8", b"\0\0\0\x20ftypisom" + bytes(100), b"\x1aE\xdf\xa3" + bytes(100), b"RIFF\0\0\0\0AVI "],
)
def test_what_is_no_video_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"^video\[0\]: "):
        decode(data)


def test_an_image_is_a_video_of_one_frame_where_animations_are_possible() -> None:
    assert len(decode(encode(halves(), "PNG"))[0]) == 1
    with pytest.raises(
        InvalidRequestError,
        match=r"video\[0\]: expected MP4 .* got a JPEG image that cannot be decoded as video",
    ):
        decode(encode(halves(), "JPEG"))


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A port where it shows when somebody connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        met: list[Any] = []

        def accept() -> None:
            while True:
                try:
                    met.append(server.accept())
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], met
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


# What the readers of MP4 and WebM leave to the next reader.
PROLOGUES = {"plain": b"", "like MP4": b"AAAAftypjp2 \n", "like WebM": b"\x1aE\xdf\xa3\x08" + b"\xff" * 6 + b" webm\n"}


@pytest.mark.parametrize("prologue", PROLOGUES.values(), ids=PROLOGUES)
@pytest.mark.parametrize(
    "text",
    [
        SDP,
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.mp4'\n",
    ],
    ids=["session description", "playlist", "list of files"],
)
def test_what_makes_ffmpeg_open_other_things_is_refused(
    listener: tuple[int, list[Any]], no_decoding: None, prologue: bytes, text: str
) -> None:
    """FFmpeg goes by content. With vLLM's own reader a session description opens a port for ten seconds."""
    port, met = listener
    with pytest.raises(InvalidRequestError, match=r"^video\[0\]: expected MP4"):
        decode(prologue + text.format(port=port).encode())
    assert met == []


def hidden(frames: int) -> bytes:
    """A VP8 video that says it lasts 100 ms, one frame's time, of frames that are not to be shown."""
    data = bytearray(film(greys(frames), "webm", "libvpx"))
    with av.open(io.BytesIO(bytes(data))) as container:
        for packet in container.demux(video=0):
            if packet.size:
                start = data.index(bytes(packet))
                data[start] &= ~0x10  # RFC 6386, section 9.1: show_frame
    place = data.index(b"\x44\x89\x88") + 3  # Duration, of 8 bytes
    data[place : place + 8] = struct.pack(">d", 100.0)
    return bytes(data)


def test_frames_that_are_not_shown_count_as_work() -> None:
    """They passed a limit of one frame, however many they were."""
    clip = hidden(40)
    with pytest.raises(
        MediaLimitError, match=r"video\[0\]: .*VIDEO_MAX_PIXELS of this model\), got 720896 in 11 frames of 64 x 48"
    ):
        decode(clip, max_decode_pixels=10 * 256 * 256)


def test_a_video_that_shows_nothing_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passes, shown = [], video._VideoDecoder._shown

    def count(decoder: video._VideoDecoder) -> Iterator[Any]:
        passes.append(decoder)
        return shown(decoder)

    monkeypatch.setattr(video._VideoDecoder, "_shown", count)
    with pytest.raises(InvalidRequestError, match=r"video\[0\]: the video has no frame that can be decoded"):
        decode(hidden(40))
    assert len(passes) == 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_phones_video_is_turned_upright(degrees: int) -> None:
    across = np.zeros((48, 64, 3), np.uint8)
    across[:24, :32] = 255  # white in the upper left corner
    (frame, *_), _ = decode(film([across] * 3, rotation=degrees))
    expected = np.rot90(across, degrees // 90)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 10


@pytest.mark.slow
def test_fewer_frames_than_the_length_promises_are_spread_evenly_too() -> None:
    """A variable rate, or a gap: two seconds at ten frames a second, and eleven frames."""
    frames, metadata = decode(film(greys(20), "webm", "libvpx", drop=range(8, 17)), 4)
    assert metadata["total_num_frames"] == 11
    assert metadata["frames_indices"] == [0, 3, 6, 10]
    assert len(frames) == 4


def test_frames_and_metadata_are_those_of_vllms_reader(vllm: None) -> None:
    from vllm.multimodal.media import ImageMediaIO, VideoMediaIO

    rng = np.random.default_rng(0)
    noise = [np.kron(rng.integers(0, 255, (6, 8, 3), np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(23)]
    for options in ({"num_frames": 5}, {"num_frames": 32, "fps": 4}, {"num_frames": 32}):
        data = film(noise, rate=12)
        theirs, told = VideoMediaIO(ImageMediaIO(), **options).load_bytes(data)
        ours, metadata = decode(data, options["num_frames"], fps=options.get("fps"))
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).mean() < 3
        assert {name: metadata[name] for name in told if name not in ("video_backend", "do_sample_frames")} == {
            "fps": pytest.approx(told["fps"]),
            "duration": pytest.approx(told["duration"]),
            "total_num_frames": told["total_num_frames"],
            "frames_indices": told["frames_indices"],
        }


@pytest.mark.usefixtures("no_decoding")
def test_an_mp4_above_the_pixel_limit_is_refused_from_its_header(mp4: bytes) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"video\[0\]: expected at most .*IMAGE_MAX_PIXELS.* got 64 x 48 = 3072"
    ):
        decode(mp4, max_pixels=64 * 48 - 1)


@pytest.mark.usefixtures("no_decoding")
def test_a_long_mp4_is_refused_from_its_header(mp4: bytes) -> None:
    message = r"at most 655359 pixels .*VIDEO_MAX_PIXELS of this model.* got 655360 in 10 frames of 64 x 48"
    with pytest.raises(InvalidRequestError, match=message):
        decode(mp4, max_decode_pixels=10 * 256 * 256 - 1)


@pytest.mark.usefixtures("no_decoding")
def test_an_mp4_that_says_it_has_many_frames_is_refused(mp4: bytes) -> None:
    """Two tables of some bytes each say so: what each frame takes in the file, and how long it is shown."""
    data = mp4
    for table, field, entry in ((b"stsz", 4, (0, 1, 200_000)), (b"stts", 8, (1, 200_000, 1024))):
        place = data.index(table) + field
        data = data[:place] + struct.pack(">III", *entry) + data[place + 12 :]
    with pytest.raises(InvalidRequestError, match="got 13107200000 in 200000 frames of 64 x 48"):
        decode(data)


def test_a_cut_off_mp4_is_refused(mp4: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="got a truncated MP4 file, without its index,"):
        decode(mp4[: len(mp4) // 2])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8), st.sampled_from(["mp4", "webm"])
)
def test_damaged_videos_give_frames_or_our_error(changes: list[tuple[int, int]], file_format: str) -> None:
    damaged = bytearray(_VIDEO_FILES[file_format])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        made, error = fakes.outcome(lambda: decode(bytes(damaged), 3))
    except MemoryError:  # FFmpeg was asked for more than there is: the worker answers for it
        return
    assert str(error).startswith("video[0]: ") if error else len(made[0]) <= 3


_VIDEO_FILES = {"mp4": film(greys()), "webm": film(greys(), "webm", "libvpx")}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_gifs_give_frames_or_our_error(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(gif(COLOURS))
    for place, value in changes:
        damaged[4 + place % (len(damaged) - 4)] = value
    made, error = fakes.outcome(lambda: decode(bytes(damaged)))
    assert str(error).startswith("video[0]: ") if error else len(made[0]) == len(made[1]["frames_indices"])


def frame_file(*sizes: tuple[int, int], colours: list[tuple[int, int, int]] | None = None) -> bytes:
    """Frames in hand of these sizes."""
    made = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours or COLOURS, strict=False)]
    return pack_frames([encode(image, "PNG") for image in made])


def test_frames_in_hand_are_all_taken_one_a_second() -> None:
    frames, metadata = decode(frame_file(*[(16, 8)] * 6))
    assert [tuple(frame[4, 8]) for frame in frames] == COLOURS
    assert metadata == {
        "fps": 1.0,
        "duration": 6.0,
        "total_num_frames": 6,
        "frames_indices": [0, 1, 2, 3, 4, 5],
        "video_backend": "jpeg_sequence",
        "do_sample_frames": False,
    }


def test_fps_says_how_frames_in_hand_were_made() -> None:
    frames, metadata = decode(frame_file(*[(16, 8)] * 6), fps=2.0)
    assert len(frames) == 6
    assert (metadata["fps"], metadata["duration"]) == (2.0, 3.0)


def test_of_many_frames_in_hand_some_are_taken() -> None:
    frames, metadata = decode(frame_file(*[(16, 8)] * 6), frames=3)
    assert [tuple(frame[4, 8]) for frame in frames] == [RED, BLUE, RED]
    assert metadata["frames_indices"] == [0, 2, 5]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (frame_file((16, 8), (8, 8)), r"frames\[1\]: expected 16 x 8 pixels like the first frame, got 8 x 8"),
        (pack_frames([b"no image"]), r"video\[0\].frames\[0\]: expected one of "),
        (frame_file((2000, 2000)), r"video\[0\].frames\[0\]: expected at most 1000000 pixels"),
        (frame_file((16, 8))[:-1], r"video\[0\]: expected a video, got frames are missing"),
    ],
)
def test_frames_in_hand_that_are_no_video_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        decode(data)


# Frames that were chosen before


def chosen(data: bytes, *indices: int, size: tuple[int, int] = (28, 56)) -> Video:
    return decode_video(data, "video[0]", 1_000_000, 10**9, ChosenFrames(chosen=indices, size=size))


@pytest.mark.parametrize("name", ["mp4", "gif"])
def test_frames_that_were_chosen_are_resized(name: str) -> None:
    shades = [(grey, grey, grey) for grey in (0, 100, 200)]
    data = film([np.full((48, 64, 3), shade, np.uint8) for shade in shades]) if name == "mp4" else gif(shades, (64, 48))
    look = look_at_video(data, "video[0]", 1_000_000, 10**9)
    assert (look.width, look.height, look.total) == (64, 48, 3)
    frames, _ = chosen(data, 0, 2)
    assert frames.shape == (2, 56, 28, 3)
    assert frames[:, 20, 20, 0].tolist() == pytest.approx([0, 200], abs=4)


def test_a_turned_video_is_looked_at_as_it_is_shown() -> None:
    look = look_at_video(film(greys(), rotation=90), "video[0]", 1_000_000, 10**9)
    assert (look.width, look.height) == (48, 64)


def test_the_last_frame_stands_for_those_that_a_header_promises_in_vain() -> None:
    data = film(greys(), "webm", "libvpx", drop={7, 8, 9})
    frames, _ = chosen(data, 0, 6, 8, 9)
    assert frames[:, 20, 20, 0].tolist() == pytest.approx([0, 170, 170, 170], abs=6)
