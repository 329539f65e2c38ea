"""Parts of messages in Qwen's form: what is read, and what is refused before a file is looked at."""

from __future__ import annotations

import math
from typing import Any

import pytest
from PIL import Image

from tests.support.decoder_workers import loader
from tests.support.images import RED, encode, gif
from vllm_custom.chat.messages import media_elements, with_handles
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import ConfigError, InvalidRequestError, UnsupportedError
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.vision_options import name_of, read_options, with_sampling
from vllm_custom.openai.media import find_media


def messages(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_images_and_videos_are_read_with_what_is_asked_for_them() -> None:
    found = media_elements(
        messages(
            {"type": "image", "image": "AAAA", "min_pixels": 784, "max_pixels": 5e5},
            {"type": "text", "text": "and"},
            {"type": "video", "video": "BBBB", "fps": 2.0, "video_start": 0},
            {"type": "video", "video": ["CCCC", "DDDD"], "max_pixels": None},
            {"type": "image_url", "image_url": {"url": "EEEE"}, "resized_height": 28, "resized_width": 56},
            {"type": "image_url", "image_url": {"url": "FFFF"}, "detail": "high"},
        )
    )
    where = "messages[0].content"
    assert found == [
        MediaElement("image", f"{where}[0].image", b"AAAA", options={"min_pixels": 784, "max_pixels": 5e5}),
        MediaElement("video", f"{where}[2].video", b"BBBB", options={"fps": 2.0, "video_start": 0}),
        MediaElement("video", f"{where}[3].video", b"", (b"CCCC", b"DDDD"), {}),
        MediaElement("image", f"{where}[4].image_url", b"EEEE", options={"resized_height": 28, "resized_width": 56}),
        MediaElement("image", f"{where}[5].image_url", b"FFFF"),
    ]
    assert [name for name, _ in found[2].files] == [f"{where}[3].video[0]", f"{where}[3].video[1]"]


def test_vllm_gets_parts_that_it_knows() -> None:
    given = messages({"type": "video", "video": ["A"], "fps": 1}, {"type": "image", "image": "B", "max_pixels": 9999})
    (message,) = with_handles(given, ["h1", "h2"], ["u1", "u2"])
    assert message["content"] == [
        {"type": "video_url", "video_url": {"url": "h1"}, "uuid": "u1"},
        {"type": "image_url", "image_url": {"url": "h2"}, "uuid": "u2"},
    ]


def test_so_do_the_parts_of_openai_bodies() -> None:
    image = {"type": "image", "image": "A", "max_pixels": 9999, "uuid": "mine"}
    body: dict[str, Any] = {"messages": messages(dict(image)), "input": messages(dict(image))}
    chat, response = find_media(body)
    assert chat.element == MediaElement("image", "messages[0].content[0].image", b"A", options={"max_pixels": 9999})
    assert response.element.part == "input[0].content[0]"
    for found, name in ((chat, "h1"), (response, "h2")):
        found.container[found.key] = name
    assert body["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": "h1"}}]
    assert body["input"][0]["content"] == [{"type": "input_image", "image_url": "h2", "detail": "auto"}]


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (
            {"image": "A", "max_pixels": "1280"},
            "p.max_pixels: expected a number from 1 to 9007199254740992, got '12",
        ),
        ({"image": "A", "max_pixels": True}, "p.max_pixels: expected a number from 1 to 9007199254740992, got True"),
        ({"image": "A", "min_pixels": 0}, "p.min_pixels: expected a number from 1 to 9007199254740992, got 0"),
        ({"image": "A", "min_pixels": 2**60}, "p.min_pixels: expected a number from 1 to 9007199254740992, got 11529"),
        (
            {"image": "A", "resized_width": 28},
            "p.resized_width: expected resized_height as well, got resized",
        ),
        ({"image": "A", "resized_height": 2.5, "resized_width": 1}, "p.resized_height: expected a whole number from 1"),
        ({"video": "A", "fps": 2, "nframes": 4}, "p.nframes: expected either fps or nframes, got both"),
        ({"video": "A", "fps": 0}, "p.fps: expected a number from 0.001 to 9007199254740992, got 0"),
        ({"video": "A", "fps": math.nan}, "p.fps: expected a number from 0.001 to 9007199254740992, got nan"),
        ({"video": "A", "video_start": -1}, "p.video_start: expected a number from 0 to 9007199254740992, got -1"),
        ({"video": "A", "video_start": 3, "video_end": 2}, "p.video_end: expected more than video_start (3), got 2"),
    ],
)
def test_options_that_are_none(part: dict[str, Any], error: str) -> None:
    (kind, *_) = part
    with pytest.raises(InvalidRequestError) as caught:
        read_options(part, kind, "p")
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image", "image": 5}, '"image" with a string: a URL'),
        ({"type": "image", "image": ["A"]}, '"image" with a string: a URL'),
        ({"type": "image"}, '"image" with a string: a URL'),
        ({"type": "video", "video": []}, '"video" with a string: a URL'),
        ({"type": "video", "video": ["A", 1]}, "or a list of such strings, its frames"),
        ({"type": "picture"}, "input_audio, image, video"),
    ],
)
def test_parts_that_hold_no_file(part: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        media_elements(messages(part))
    assert str(caught.value).startswith("messages[0].content[0]")
    assert expected in str(caught.value)


def test_other_options_are_other_items_in_the_caches() -> None:
    assert name_of({"fps": 2, "max_pixels": 9}) == name_of({"max_pixels": 9.0, "fps": 2.0})
    assert name_of({"fps": 2}) != name_of({"fps": 2.5}) != name_of({})


def test_a_part_goes_before_the_request() -> None:
    asked = FrameSampling(8, 1.0, asked=True)
    assert with_sampling({}, asked) == {"fps": 1.0, "max_frames": 8}
    assert with_sampling({"nframes": 4}, asked) == {"nframes": 4}
    assert with_sampling({"max_frames": 6}, asked) == {"fps": 1.0, "max_frames": 6}
    assert with_sampling({"min_frames": 6}, FrameSampling(8)) == {"min_frames": 6}, "only the model's limit"


async def test_a_model_of_another_family_takes_the_form_but_not_its_options() -> None:
    picture, video = encode(Image.new("RGB", (30, 20), RED)), gif([(0, 0, grey) for grey in (0, 100, 200)])
    with loader() as media:
        loaded = await media.load(
            [
                MediaElement("image", "m.image", picture, options={}),
                MediaElement("video", "m.video", video, options={}),
                MediaElement("video", "n.video", b"", (picture, picture, picture), {"sample_fps": 4}),
            ]
        )
        image, video, listed = (item.data for item in loaded)
        assert image.size == (30, 20)
        assert video[0].shape[0] == 3
        assert listed[0].shape == (3, 20, 30, 3)
        assert (listed[1]["fps"], listed[1]["duration"], listed[1]["frames_indices"]) == (4, 0.75, [0, 1, 2])
        loaded.release()
        with pytest.raises(UnsupportedError, match=r"^m\.max_pixels: requires a Qwen2-VL"):
            await media.load([MediaElement("image", "m.image", picture, options={"max_pixels": 5000})])


def test_the_parameter_is_refused_for_such_a_model() -> None:
    given = {"name": "model", "parameters": {"QWEN_VL_UTILS": {"string_value": "true"}}}
    with pytest.raises(ConfigError, match="QWEN_VL_UTILS: expected a Qwen2-VL"):
        MediaLoader(Settings.from_model_config(given), {"image": 1})
