"""Mistakes are answered with a code and a message that names the field, and disturb nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server.client import Client
from tests.shapes import picture

pytestmark = [pytest.mark.server, pytest.mark.engine, pytest.mark.usefixtures("shapes_vl")]

MODEL = "shapes_vl"
PICTURE = picture(21_001, count=1)
IMAGE = base64.b64encode(PICTURE.encoded()).decode()
PAD = "<|vision_start|><|image_pad|><|vision_end|>"


def _huge_png() -> str:
    """12,000 x 12,000 pixels in half a megabyte of base64."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _messages(*content: Any, role: str = "user") -> str:
    return json.dumps([{"role": role, "content": list(content)}])


# name -> (request, words that the message holds). Triton 24.10 answers every error of generate with 400; the codes
# themselves show on /infer and gRPC, in test_policies.py.
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no prompt": ({"temperature": 0}, ["text_input", "messages"]),
    "both prompts": ({"text_input": "a", "messages": _messages("b")}, ["text_input", "messages"]),
    "negative temperature": ({"text_input": "a", "temperature": -1}, ["temperature", "-1"]),
    "text for a number": ({"text_input": "a", "max_tokens": "many"}, ["max_tokens", "many", "integer"]),
    "zero max_tokens": ({"text_input": "a", "max_tokens": 0}, ["max_tokens", "0"]),
    "top_p above one": ({"text_input": "a", "top_p": 1.5}, ["top_p", "1.5"]),
    "unknown parameter": ({"text_input": "a", "temprature": 0}, ["temprature", "temperature"]),
    "sampling_parameters not JSON": ({"text_input": "a", "sampling_parameters": "{"}, ["sampling_parameters"]),
    "sampling_parameters a list": ({"text_input": "a", "sampling_parameters": "[]"}, ["sampling_parameters"]),
    "structured_outputs unknown key": ({"text_input": "a", "structured_outputs": '{"x": 1}'}, ["'x'", "regex"]),
    "structured_outputs two": (
        {"text_input": "a", "structured_outputs": '{"regex": "a", "choice": ["b"]}'},
        ["structured"],
    ),
    "bad regex": ({"text_input": "a", "structured_outputs": '{"regex": "(("}'}, []),
    "unknown adapter": ({"text_input": "a", "lora_name": "fr"}, ["lora_name", "fr", "caps", "zh"]),
    "not base64": ({"text_input": "a", "image": ["%%%"]}, ["image[0]", "base64"]),
    "base64 of no image": ({"text_input": "a", "image": [IMAGE, "aGVsbG8="]}, ["image[1]", "not an image"]),
    "truncated image": ({"text_input": "a", "image": [IMAGE[: len(IMAGE) // 2]]}, ["image[0]", "damaged"]),
    "empty image": ({"text_input": "a", "image": [""]}, ["image[0]", "empty"]),
    "pixel bomb": ({"text_input": "a", "image": [_huge_png()]}, ["image[0]", "144000000", "IMAGE_MAX_PIXELS"]),
    "http URL": ({"text_input": "a", "image": ["http://127.0.0.1/a.png"]}, ["image[0]", "http:", "not allowed"]),
    "file URL": ({"text_input": "a", "image": ["file:///etc/passwd"]}, ["image[0]", "file:", "not allowed"]),
    "too many images": ({"text_input": "a", "image": [IMAGE] * 31}, ["image", "30", "31"]),
    "too few placeholders": ({"text_input": f"{PAD}a", "image": [IMAGE] * 2}, ["1 image placeholder", "2 image"]),
    "placeholder without image": ({"text_input": f"{PAD}a"}, ["1 image placeholder", "0 image"]),
    "not a clip": ({"text_input": "a", "video": ["aGVsbG8="]}, ["video[0]"]),
    "messages not JSON": ({"messages": "hello"}, ["messages", "JSON"]),
    "messages empty": ({"messages": "[]"}, ["messages"]),
    "unknown role": ({"messages": _messages("a", role="robot")}, ["messages[0].role", "robot", "assistant"]),
    "unknown part": ({"messages": _messages({"type": "picture"})}, ["messages[0].content[0].type", "image_url"]),
    "trusted part": ({"messages": _messages({"type": "image_pil", "image_pil": "a"})}, ["image_pil"]),
    "image part without url": ({"messages": _messages({"type": "image_url"})}, ["messages[0].content[0]", "url"]),
    "image part with http": (
        {"messages": _messages({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}})},
        ["messages[0].content[0].image_url", "not allowed"],
    ),
    "forged handle": (
        {"messages": _messages({"type": "image_url", "image_url": {"url": "vllm-custom-media:0"}})},
        ["not allowed"],
    ),
    "messages with image input": ({"messages": _messages("a"), "image": [IMAGE]}, ["image", "messages"]),
    "prompt too long": ({"text_input": "1+1=" * 9000}, ["8192"]),
    "input in a streamed output": (
        {"text_input": "a", "stream": True, "exclude_input_in_output": False},
        ["exclude_input_in_output", "stream"],
    ),
    "stop token beyond the vocabulary": (
        {"text_input": "a", "min_tokens": 2, "stop_token_ids": "[999999]"},
        ["stop_token_ids", "999999"],
    ),
    "allowed token beyond the vocabulary": ({"text_input": "a", "allowed_token_ids": "[999999]"}, ["999999"]),
    "biased token beyond the vocabulary": ({"text_input": "a", "logit_bias": '{"999999": 1}'}, ["999999"]),
    "more logprobs than allowed": ({"text_input": "a", "logprobs": 1000}, ["logprobs"]),
    "too many sequences": ({"text_input": "a", "n": 100000}, ["n"]),
    "two prompts": ({"text_input": ["a", "b"]}, ["text_input"]),
}


@pytest.fixture(scope="module")
def answers(client: Client) -> Iterator[dict[str, Any]]:
    """All bad requests at once, a good one beside each."""

    def good(_: str) -> str:
        return client.generate(MODEL, text_input="Describe the image.", image=[IMAGE], temperature=0).text

    with ThreadPoolExecutor(8) as pool:
        bad_answers = {name: pool.submit(client.generate, MODEL, **request) for name, (request, _) in BAD.items()}
        good_answers = list(pool.map(good, BAD))
        yield {"bad": {name: job.result() for name, job in bad_answers.items()}, "good": good_answers}


@pytest.mark.parametrize("name", BAD)
def test_bad_request(answers: dict[str, Any], name: str) -> None:
    _, words = BAD[name]
    answer = answers["bad"][name]
    assert answer.status == 400, answer.body
    assert [word for word in words if word not in answer.error] == [], answer.error
    assert "Traceback" not in answer.error


def test_good_requests_beside_them_are_not_disturbed(answers: dict[str, Any]) -> None:
    assert answers["good"] == [PICTURE.answer()] * len(BAD)
