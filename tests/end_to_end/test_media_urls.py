"""The model sees what is at a URL or in a file as it sees the same in base64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.media_files import Files
from tests.support.openai_cases import MODEL
from tests.support.shapes import Picture, answer_each, clip, gif, picture

pytestmark = pytest.mark.usefixtures("superset")

DESCRIBE = "Describe the image."
DESCRIBE_EACH = "Describe each image."
GREEDY = {"temperature": 0}

PICTURE = picture(20_001, (224, 224), count=2)


def singles(seed: int, count: int, side: int = 224) -> list[Picture]:
    return [picture(seed + index, (side, side), count=1) for index in range(count)]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"])
def test_image_by_url(client: Client, files: Files, host: str) -> None:
    files.add([PICTURE], "by-url-")
    url = f"http://{host}:{files.port}/by-url-0.png?token=secret"
    answer = client.generate(MODEL, text_input=DESCRIBE, image=[url], **GREEDY)
    assert (answer.status, answer.body.get("text_output")) == (200, PICTURE.answer())


def test_video_by_url(client: Client, files: Files) -> None:
    files.files["/clip.gif"] = gif(clip(20_400, "left"))
    answer = client.generate(MODEL, text_input="Which way does it move?", video=[files.url + "/clip.gif"], **GREEDY)
    assert (answer.status, answer.body.get("text_output")) == (200, "left")


def test_url_base64_data_uri_and_file_in_one_request_keep_their_order(
    client: Client, files: Files, superset_media: Path
) -> None:
    pictures = singles(20_100, 3) + singles(20_110, 1)
    (url, *_) = files.add(pictures, "in-order-")
    (superset_media / "two.png").write_bytes(pictures[2].encoded())
    images = [
        url,
        b64(pictures[1].encoded()),
        (superset_media / "two.png").as_uri(),
        f"data:image/png;base64,{b64(pictures[3].encoded())}",
    ]
    answer = client.generate(MODEL, text_input=DESCRIBE_EACH, image=images, **GREEDY)
    assert (answer.status, answer.body.get("text_output")) == (200, answer_each(pictures))


def test_messages_with_a_url_and_a_data_uri(client: Client, files: Files) -> None:
    pictures = singles(20_100, 2)
    (url, _) = files.add(pictures, "part")
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(pictures[1].encoded())}"}},
        {"type": "text", "text": DESCRIBE_EACH},
    ]
    answer = client.generate(MODEL, messages=json.dumps([{"role": "user", "content": parts}]), **GREEDY)
    assert (answer.status, answer.body.get("text_output")) == (200, answer_each(pictures))


def test_thirty_urls_answer_as_the_same_thirty_in_base64(client: Client, files: Files) -> None:
    pictures = singles(20_200, 30, side=112)
    before = files.hits
    body = {"text_input": DESCRIBE_EACH, "return_num_input_tokens": True, **GREEDY}
    by_url = client.generate(MODEL, image=files.add(pictures, "thirty-"), **body)
    assert files.hits - before == 30
    assert by_url.status == 200, by_url.body
    assert by_url.body["num_input_tokens"] >= 30 * 16
    assert by_url.text == client.generate(MODEL, image=[b64(item.encoded()) for item in pictures], **body).text
