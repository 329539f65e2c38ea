"""How a prompt is made is decided before any media are decoded."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.fake_engine import FACTS, FakeEngine
from vllm_custom.chat import PromptBuilder
from vllm_custom.chat.placeholders import Placeholders
from vllm_custom.contract.settings import Settings
from vllm_custom.engine.embeds import EmbedsLayout
from vllm_custom.errors import InvalidRequestError, UnsupportedError
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.request import InferenceCall, parse_request


@pytest.fixture
def media():
    loader = MediaLoader(Settings.from_model_config({"name": "model"}), {"image": 3, "video": 1})
    yield loader
    loader.close()


def engine(placeholder: str | None = "<{modality}>") -> FakeEngine:
    """One whose model brings no chat template; ``placeholder`` is what stands for an item in its prompts."""
    return FakeEngine(
        facts=replace(FACTS, has_chat_template=False),
        spell=lambda modality, number: placeholder and placeholder.format(modality=modality, number=number),
    )


@pytest.fixture
def builder(media: MediaLoader) -> PromptBuilder:
    return PromptBuilder(engine(), media, MediaHandles(), "{{ messages }}")


def call(text: str, images: int = 0, videos: int = 0, parameters: str = "{}") -> InferenceCall:
    tensors: dict[str, Any] = {"text_input": np.array([text.encode()], np.object_)}
    for name, count in (("image", images), ("video", videos)):
        tensors[name] = np.array([b"x"] * count, np.object_)
    return parse_request(tensors, parameters, ())


@pytest.mark.parametrize(
    ("request_", "templated"),
    [
        (call("hi"), False),
        (call("hi", images=2), True),
        (call("<image>hi", images=1), False),
        (call("<image><image><video>", images=2, videos=1), False),
        (call("hi", parameters='{"apply_chat_template": true}'), True),
        (call("<image>", images=1, parameters='{"apply_chat_template": true}'), True),
        (call("hi", parameters='{"apply_chat_template": false}'), False),
    ],
)
def test_media_without_placeholders_go_through_the_template(
    builder: PromptBuilder, request_: InferenceCall, templated: bool
) -> None:
    plan = builder.plan(request_)
    assert plan.templated is templated
    assert (plan.messages is not None) is templated


@pytest.mark.parametrize(
    ("parameters", "frames"),
    [
        ("{}", FrameSampling(32)),
        ('{"num_frames": 4}', FrameSampling(4)),
        ('{"fps": "0.5"}', FrameSampling(32, 0.5)),
        ('{"media_io_kwargs": "{\\"video\\": {\\"num_frames\\": 4}}", "fps": 2}', FrameSampling(4, 2.0)),
    ],
)
def test_frames_of_videos_by_request(builder: PromptBuilder, parameters: str, frames: FrameSampling) -> None:
    assert builder.plan(call("hi", videos=1, parameters=parameters)).frames == frames


def test_too_many_frames_are_refused_before_anything_is_decoded(builder: PromptBuilder) -> None:
    with pytest.raises(InvalidRequestError, match="num_frames: expected at most 32"):
        builder.plan(call("hi", videos=1, parameters='{"num_frames": 33}'))


def test_the_templated_turn_holds_the_media_before_the_text(builder: PromptBuilder) -> None:
    plan = builder.plan(call("hi", images=1, videos=1))
    assert plan.messages == [
        {"role": "user", "content": [{"type": "image_url"}, {"type": "video_url"}, {"type": "text", "text": "hi"}]}
    ]
    assert [element.field for element in plan.elements] == ["image[0]", "video[0]"]


def told(expected: int, modality: str, got: int) -> str:
    return (
        f"text_input: expected {expected} {modality} placeholder(s) (<{modality}>), one for each {modality} that was "
        f"sent, got {got}; without any placeholder the chat template puts the media before the text"
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            call("<image>", images=2),
            told(2, "image", 1),
        ),
        (
            call("<image><image>", images=1),
            told(1, "image", 2),
        ),
        (call("<image>"), told(0, "image", 1)),
        (
            call("<image>", images=1, videos=1),
            told(1, "video", 0),
        ),
        (
            call("hi", images=1, parameters='{"apply_chat_template": false}'),
            told(1, "image", 0),
        ),
        (call("hi", images=4), "image: expected at most 3 item(s) per prompt"),
    ],
)
def test_counts_that_do_not_match_are_refused(builder: PromptBuilder, request_: InferenceCall, message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        builder.plan(request_)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "request_", [call("hi", images=1), call("hi", parameters='{"apply_chat_template": true}')], ids=["media", "asked"]
)
def test_a_model_without_a_template_says_so(media: MediaLoader, request_: InferenceCall) -> None:
    builder = PromptBuilder(engine(), media, MediaHandles(), None)
    with pytest.raises(UnsupportedError, match="this model has no chat template"):
        builder.plan(request_)
    assert not builder.plan(call("<image>", images=1)).templated


def test_embedded_images_are_counted_before_they_are_looked_at(media: MediaLoader) -> None:
    """Each row of the grid takes a while; ten millions would hold the event loop for half a minute."""
    embedding = replace(engine(), layout=EmbedsLayout(hidden_size=8, merge=2))
    prompts = PromptBuilder(embedding, media, MediaHandles(), "{{ messages }}")
    values, grid = np.zeros((4, 8), np.float32), np.zeros((4, 3), np.int64)
    tensors = {"text_input": np.array([b"hi"], np.object_), "image_embeds": values, "image_grid_thw": grid}
    with pytest.raises(InvalidRequestError, match=r"image: expected at most 3 item\(s\) per prompt"):
        prompts.plan(parse_request(tensors, "{}", ()))


def test_a_template_that_the_model_brings_is_one(media: MediaLoader) -> None:
    assert PromptBuilder(FakeEngine(), media, MediaHandles(), None).plan(call("hi", images=1)).templated


def test_numbered_placeholders_are_counted_up(media: MediaLoader) -> None:
    builder = PromptBuilder(engine("<|{modality}_{number}|>"), media, MediaHandles(), "{{ messages }}")
    assert not builder.plan(call("<|image_1|> and <|image_2|>", images=2)).templated
    with pytest.raises(InvalidRequestError, match=r"expected 1 image placeholder\(s\) \(<\|image_1\|>\), .* got 2"):
        builder.plan(call("<|image_1|> and <|image_2|>", images=1))
    with pytest.raises(InvalidRequestError, match=r"expected 3 .* \(<\|image_1\|>, <\|image_2\|>, \.\.\.\), .* got 2"):
        builder.plan(call("<|image_1|> and <|image_2|>", images=3))


def test_a_model_that_puts_media_in_by_itself_needs_neither_placeholders_nor_a_template(media: MediaLoader) -> None:
    assert PromptBuilder(engine(None), media, MediaHandles(), "{{ messages }}").plan(call("hi", images=1)).templated
    assert not PromptBuilder(engine(None), media, MediaHandles(), None).plan(call("hi", images=1)).templated


def test_messages_are_taken_with_their_media(builder: PromptBuilder) -> None:
    content = b'[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]'
    plan = builder.plan(parse_request({"messages": np.array([content], np.object_)}, "{}", ()))
    assert plan.templated
    assert [element.field for element in plan.elements] == ["messages[0].content[0].image_url"]


def test_numbered_placeholders_are_asked_for_within_a_bound() -> None:
    """For each of N of them the processor wrote out N: 100,000 in a text stopped everybody."""
    asked: list[int] = []

    def spell(_: str, number: int) -> str:
        asked.append(number)
        return f"<|image_{number}|>"

    found = Placeholders(spell, ["image"]).count("".join(f"<|image_{number}|>" for number in range(1, 5000)))
    assert found == {"image": max(asked)} == {"image": 1024}
