"""Embeddings in place of images: what does not fit the model is refused before vLLM sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support import fakes
from tests.support.fake_engine import FakeEngine
from vllm_custom.chat import PromptBuilder
from vllm_custom.chat import messages as chat_messages
from vllm_custom.contract.settings import Settings
from vllm_custom.engine.embeds import EmbedsLayout, ImageEmbeds, read_embeds
from vllm_custom.errors import BackendError, InvalidRequestError, UnsupportedError
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.request import parse_request

GRID = EmbedsLayout(hidden_size=8, merge=2)
PLAIN = EmbedsLayout(hidden_size=8, merge=None)


def values(rows: int, columns: int = 8, dtype: Any = np.float32) -> npt.NDArray[Any]:
    return np.arange(rows * columns, dtype=dtype).reshape(rows, columns)


def grid(*images: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    return np.array(images, np.int64).reshape(-1, 3)


def test_two_images_are_taken_apart_by_their_grid() -> None:
    embeds = read_embeds(values(10), grid((1, 4, 4), (1, 2, 12)))
    assert embeds is not None
    embeds.check(GRID)
    first, second = embeds.per_image(GRID.merge)
    assert embeds.count == 2
    assert first["image_embeds"].tolist() == values(10)[:4].tolist()
    assert second["image_embeds"].tolist() == values(10)[4:].tolist()
    assert [image["image_grid_thw"].tolist() for image in (first, second)] == [[1, 4, 4], [1, 2, 12]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_without_a_grid_all_rows_are_one_image(dtype: Any) -> None:
    embeds = read_embeds(values(5, dtype=dtype), None)
    assert embeds is not None
    embeds.check(PLAIN)
    (image,) = embeds.per_image(PLAIN.merge)
    assert (embeds.count, list(image)) == (1, ["image_embeds"])
    assert image["image_embeds"].dtype == dtype


def test_the_requests_own_memory_is_not_kept() -> None:
    sent = values(4)
    embeds = read_embeds(sent, None)
    sent[:] = 0
    assert embeds is not None
    assert embeds.values.any()


@pytest.mark.parametrize(
    ("sent", "sent_grid", "layout", "message"),
    [
        (
            values(4, 7),
            grid((1, 4, 4)),
            GRID,
            "image_embeds: expected [rows, 8], 8 being the hidden size",
        ),
        (values(4), None, GRID, "image_grid_thw: required with image_embeds, INT64 [images, 3]"),
        (values(4), grid((1, 4, 4)), PLAIN, "image_grid_thw: this model does not use it"),
        (
            values(4),
            grid((1, 4, 4), (1, 2, 2)),
            GRID,
            "image_embeds: expected 5 rows (time x height x width / 4 of image_grid_thw), got 4",
        ),
        (values(4), grid(), GRID, "image_embeds: expected 0 rows"),
        (
            values(4),
            grid((1, 4, 3)),
            GRID,
            "image_grid_thw[0]: expected time, height and width",
        ),
        (values(4), grid((1, 4, 4), (0, 2, 2)), GRID, "image_grid_thw[1]: expected time"),
        (values(4), grid((-1, -4, 4)), GRID, "image_grid_thw[0]: expected time"),
        (values(4), grid((2**40, 2**40, 2**40)), GRID, "rows (time x height x width / 4 of image_grid_thw), got 4"),
        (
            values(4).astype(np.float64),
            None,
            GRID,
            "image_embeds: expected FP16 or FP32 [rows, hidden size], got float64",
        ),
        (values(4)[0], None, GRID, "image_embeds: expected FP16 or FP32 [rows, hidden size], got float32 [8]"),
        (values(0), None, GRID, "image_embeds: expected FP16 or FP32 [rows, hidden size], got float32 [0, 8]"),
        (np.full((4, 8), np.nan, np.float32), None, GRID, "image_embeds: contains non-finite values (NaN or infinity)"),
        (values(4), np.array([1, 4, 4]), GRID, "image_grid_thw: expected INT64 [images, 3], got int64 [3]"),
        (values(4), grid((1, 4, 4)) / 2, GRID, "image_grid_thw: expected INT64 [images, 3], got float64 [1, 3]"),
        (None, grid((1, 4, 4)), GRID, "image_grid_thw: requires image_embeds, which is missing"),
    ],
)
def test_what_does_not_fit_is_refused(
    sent: npt.NDArray[Any] | None, sent_grid: npt.NDArray[Any] | None, layout: EmbedsLayout, message: str
) -> None:
    def check() -> ImageEmbeds | None:
        embeds = read_embeds(sent, sent_grid)
        if embeds is not None:
            embeds.check(layout)
        return embeds

    _, error = fakes.outcome(check)
    assert isinstance(error, InvalidRequestError)
    assert message in str(error)


def test_a_model_without_the_engine_argument_says_how_to_switch_it_on() -> None:
    with pytest.raises(UnsupportedError, match=r'"enable_mm_embeds": true in model\.json'):
        ImageEmbeds(values(4), None).check(None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image": np.array([b"x"], np.object_)}, "image_embeds: cannot be combined with image"),
        (
            {"messages": np.array([b'[{"role": "user"}]'], np.object_), "text_input": None},
            "image_embeds: cannot be combined with messages",
        ),
    ],
)
def test_what_embeddings_do_not_go_with(more: dict[str, Any], message: str) -> None:
    tensors = {"text_input": np.array([b"hi"], np.object_), "image_embeds": values(4)} | more
    with pytest.raises(BackendError, match=message):
        parse_request({name: array for name, array in tensors.items() if array is not None}, "{}", ())


@pytest.fixture
def builder() -> Any:
    media = MediaLoader(Settings.from_model_config({"name": "model"}), {"image": 2, "video": 1})
    yield PromptBuilder(FakeEngine(layout=GRID), media, MediaHandles(), "{{ messages }}")
    media.close()


def embeds_call(text: str, images: int) -> Any:
    tensors = {
        "text_input": np.array([text.encode()], np.object_),
        "image_embeds": values(4 * images),
        "image_grid_thw": grid(*[(1, 4, 4)] * images),
    }
    return parse_request(tensors, "{}", ())


def test_embedded_images_count_as_images(builder: PromptBuilder) -> None:
    plan = builder.plan(embeds_call("hi", 2))
    assert (plan.templated, len(plan.embedded), plan.elements) == (True, 2, [])
    assert not builder.plan(embeds_call("<image><image>hi", 2)).templated
    with pytest.raises(InvalidRequestError, match=r"expected 2 image placeholder\(s\) .* got 1"):
        builder.plan(embeds_call("<image>hi", 2))
    with pytest.raises(InvalidRequestError, match=r"image: expected at most 2 item\(s\) per prompt"):
        builder.plan(embeds_call("hi", 3))


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ([["image_embeds"], ["image_embeds"]], ["a", "b"]),
        ([["image_embeds", "image_grid_thw"]], [{"image_embeds": "a", "image_grid_thw": "b"}]),
    ],
)
def test_embedded_images_come_first_in_the_users_turn(fields: list[list[str]], parts: list[Any]) -> None:
    text = {"type": "text", "text": "hi"}
    messages = [{"role": "user", "content": [text]}]
    (turn,) = chat_messages.with_embeds(messages, fields, ["a", "b"])
    assert turn["content"] == [*({"type": "image_embeds", "image_embeds": part} for part in parts), text]
    assert chat_messages.with_embeds(messages, [], []) == messages
