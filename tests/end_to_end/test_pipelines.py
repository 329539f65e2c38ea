"""The vision encoder as a model of its own, in an ensemble with the language model, next to the model in one piece."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.servers import Loads, wait_until
from tests.support.shapes import Picture, picture

ENCODED = "shapes_vl_encoded"
LANGUAGE = "shapes_vl_language"
DESCRIBE = "Describe the image."
GREEDY = json.dumps({"temperature": 0})
IMAGES = 50


@pytest.fixture(scope="module", autouse=True)
def model(load: Loads) -> None:
    """The ensemble, which brings its two models along."""
    load(ENCODED)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [picture(31_000 + number) for number in range(IMAGES)]


@pytest.fixture(scope="module")
def images(pictures: list[Picture]) -> list[str]:
    return [base64.b64encode(one.encoded()).decode() for one in pictures]


def asked(client: Client, model: str, text: str, images: list[str], **more: Any) -> str:
    answer = client.generate(model, text_input=text, image=images, sampling_parameters=GREEDY, **more)
    assert answer.status == 200, answer.body
    return answer.text


def test_the_same_answers_as_of_the_model_in_one_piece(
    client: Client, superset: str, pictures: list[Picture], images: list[str]
) -> None:
    def ask(model: str) -> list[str]:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(lambda image: asked(client, model, DESCRIBE, [image]), images))

    direct, encoded = ask(superset), ask(ENCODED)
    assert encoded == direct
    # An answer that ignores the image would be the same as well.
    assert sum(said == one.answer() for said, one in zip(encoded, pictures, strict=True)) >= IMAGES - 1


def test_several_images_keep_their_order(client: Client, superset: str, images: list[str]) -> None:
    several = images[:3]
    direct = asked(client, superset, "Describe each image.", several)
    assert asked(client, ENCODED, "Describe each image.", several) == direct
    assert direct.startswith("1: ")


def test_streamed_in_pieces(client: Client, pictures: list[Picture], images: list[str]) -> None:
    """More tokens than what waits while a machine is busy, which is sent together."""
    long = json.dumps({"temperature": 0, "max_tokens": 400, "ignore_eos": True})
    events = client.stream(ENCODED, text_input=DESCRIBE, image=images[:1], sampling_parameters=long)
    assert len(events) > 1
    assert "".join(event["text_output"] for event in events).startswith(pictures[0].answer())


@pytest.mark.parametrize(
    ("image", "parameters", "message"),
    [
        ("zz", {}, "image[0]: expected one of JPEG"),
        ("http://127.0.0.1/a.png", {}, "image[0]: http: references are not allowed"),
        (None, {"tempratur": 1}, "did you mean temperature?"),
    ],
)
def test_an_error_of_either_model_is_the_pipelines(
    client: Client, images: list[str], image: str | None, parameters: dict[str, Any], message: str
) -> None:
    answer = client.generate(
        ENCODED, text_input=DESCRIBE, image=[image or images[0]], sampling_parameters=json.dumps(parameters)
    )
    assert message in answer.error
    assert asked(client, ENCODED, DESCRIBE, images[:1])


def test_more_images_than_the_encoder_takes_are_refused(client: Client, images: list[str]) -> None:
    answer = client.generate(ENCODED, text_input=DESCRIBE, image=images[:31], sampling_parameters=GREEDY)
    assert "image: expected at most 30 images (MAX_IMAGES of this model), got 31" in answer.error


def test_a_client_that_has_gone_leaves_nothing_running(client: Client, images: list[str]) -> None:
    """Triton passes a cancellation on between the steps of an ensemble only: the language model ends by itself."""
    some = json.dumps({"max_tokens": 100, "ignore_eos": True})
    with client.open_stream(ENCODED, text_input=DESCRIBE, image=images[:1], sampling_parameters=some) as events:
        next(events)
    running = f'vllm:num_requests_running{{model="{LANGUAGE}",version="1"}}'
    wait_until(lambda: client.metrics()[running] == 0)
    assert asked(client, ENCODED, DESCRIBE, images[:1])


def test_the_language_model_has_no_tower(client: Client, images: list[str]) -> None:
    answer = client.generate(LANGUAGE, text_input=DESCRIBE, image=images[:1])
    assert "image: this model takes no image input" in answer.error
