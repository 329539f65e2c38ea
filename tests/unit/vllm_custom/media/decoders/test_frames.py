"""Which frames of a video are taken: what may be asked for, and what comes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.frames import FrameSampling


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((None, None, {}), FrameSampling()),
        ((8, None, {}), FrameSampling(8)),
        ((None, 0.5, {}), FrameSampling(None, 0.5)),
        ((None, None, {"video": {"num_frames": 8, "fps": 2}}), FrameSampling(8, 2)),
        ((8, None, {"video": {"fps": 2.5}}), FrameSampling(8, 2.5)),
        ((None, None, {"video": {}}), FrameSampling()),
    ],
)
def test_both_ways_to_ask(asked: tuple[Any, Any, Any], expected: FrameSampling) -> None:
    assert FrameSampling.requested(*asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((None, None, {"video": {"num_frames": 0}}), "media_io_kwargs.video.num_frames: expected a whole number"),
        ((None, None, {"video": {"num_frames": -1}}), "media_io_kwargs.video.num_frames: expected a whole number"),
        ((None, None, {"video": {"num_frames": 2.5}}), "media_io_kwargs.video.num_frames: expected a whole number"),
        ((None, None, {"video": {"num_frames": True}}), "media_io_kwargs.video.num_frames: expected a whole number"),
        ((None, None, {"video": {"num_frames": None}}), "media_io_kwargs.video.num_frames: expected a whole number"),
        ((None, None, {"video": {"fps": "2"}}), "media_io_kwargs.video.fps: expected a number greater than 0, got '2'"),
        ((None, None, {"video": {"fps": 0}}), "media_io_kwargs.video.fps: expected a number greater than 0, got 0"),
        ((None, None, {"video": {"fps": float("inf")}}), "media_io_kwargs.video.fps: expected a number greater than 0"),
        ((None, None, {"video": {"fps": float("nan")}}), "media_io_kwargs.video.fps: expected a number greater than 0"),
        ((None, None, {"video": {"backend": "x"}}), "media_io_kwargs.video.backend: unknown option"),
        ((None, None, {"video": 5}), 'media_io_kwargs: expected {"video": {"num_frames": ..., "fps": ...}, "image":'),
        ((None, None, {"audio": {"audio_backend": "pyav"}}), 'media_io_kwargs: expected {"video": {"num_frames": ...'),
        ((None, None, {"image": {"image_mode": "RGB"}}), "media_io_kwargs.image.image_mode: unknown option"),
        (
            (None, None, {"image": {"rgba_background_color": [0, 0]}}),
            "media_io_kwargs.image.rgba_background_color: exp",
        ),
        (
            (None, None, {"image": {"rgba_background_color": [0, 0, 256]}}),
            "media_io_kwargs.image.rgba_background_color",
        ),
        (
            (None, None, {"image": {"rgba_background_color": "black"}}),
            "media_io_kwargs.image.rgba_background_color: ex",
        ),
        ((8, None, {"video": {"num_frames": 8}}), "num_frames: expected once, got it in media_io_kwargs as well"),
        ((None, 1.0, {"video": {"fps": 1}}), "fps: expected once, got it in media_io_kwargs as well"),
    ],
)
def test_what_is_refused(asked: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        FrameSampling.requested(*asked)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("asked", "default", "expected"),
    [
        (FrameSampling(), FrameSampling(), FrameSampling(32)),
        (FrameSampling(), FrameSampling(8, 2.0), FrameSampling(8, 2.0)),
        (FrameSampling(), FrameSampling(99), FrameSampling(32)),
        (FrameSampling(32), FrameSampling(8, 2.0), FrameSampling(32)),
        (FrameSampling(None, 1.0), FrameSampling(8, 2.0), FrameSampling(32, 1.0)),
    ],
)
def test_the_models_limit_and_defaults(asked: FrameSampling, default: FrameSampling, expected: FrameSampling) -> None:
    """What a request says replaces both defaults, as in vLLM's server."""
    assert asked.within(32, default) == expected


def test_more_frames_than_the_limit_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"num_frames: expected at most 32 \(VIDEO_MAX_FRAMES .*\), got 33"):
        FrameSampling(33).within(32, FrameSampling())


@given(
    st.integers(1, 10_000),
    st.floats(0.01, 1000),
    st.none() | st.integers(1, 100),
    st.none() | st.floats(0.01, 1000),
)
def test_frames_are_in_order_within_the_video_and_no_more_than_asked(
    total: int, seconds: float, num_frames: int | None, fps: float | None
) -> None:
    indices = FrameSampling(num_frames, fps).indices(total, seconds)
    assert indices == sorted(set(indices))
    assert indices[0] == 0
    assert indices[-1] < total
    assert len(indices) <= (num_frames or total)
    assert fps is None or len(indices) <= max(1, seconds * fps)
