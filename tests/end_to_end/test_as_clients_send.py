"""What clients of other servers send, from public reports of requests that were refused or misread."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.bodies import b64, data_uri
from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.openai_cases import CHAT, MESSAGES, MODEL, RESPONSES
from tests.support.servers import wait_until
from tests.support.shapes import encode, picture

PICTURE = picture(20_001, (224, 224), count=2)
URI = data_uri(PICTURE.encoded(), "image/png")
DESCRIBE, SUM = {"type": "text", "text": "Describe the image."}, {"role": "user", "content": "2+3="}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "42"}


def calling(arguments: str, content: Any = None) -> list[dict[str, Any]]:
    """A conversation in which a tool was called."""
    function = {"name": "get", "arguments": arguments}
    call = {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    return [{"role": "user", "content": "x"}, call, TOOL, SUM]


def seeing(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, DESCRIBE]}]


SUMS = {
    "the arguments of a call are null": calling("null"),
    "a call has no content": calling("{}"),
    "the content of a call is an empty list": calling("{}", []),
    "a message has further keys": [{**SUM, "id": 1947269257, "opts": {"visible": False}}],
    "an answer is empty": [{"role": "user", "content": "A"}, {"role": "assistant", "content": ""}, SUM],
    "a part has the name of another API": [{"role": "user", "content": [{"type": "input_text", "text": "2+3="}]}],
}
IMAGES = {
    "the URL stands beside the type": {"type": "image_url", "url": URI},
    "the URL is a string": {"type": "image_url", "image_url": URI},
    "the part has the name of another API": {"type": "input_image", "image_url": URI},
    "the type is that of another API": {"type": "image", "image_url": {"url": URI}},
    "the detail is low, and the image WebP": {
        "type": "image_url",
        "image_url": {"url": data_uri(encode(PICTURE.image, "WEBP", lossless=True), "image/webp"), "detail": "low"},
    },
}
ITEMS: dict[str, list[dict[str, Any]]] = {
    "an answer has no id": [
        {"type": "message", "role": "assistant", "id": None, "content": [{"type": "output_text", "text": "hello"}]}
    ],
    "reasoning has no content": [{"type": "reasoning", "id": "r1", "summary": [], "content": None}],
    "reasoning has no id": [{"type": "reasoning", "id": None, "summary": [], "encrypted_content": None}],
}


@pytest.fixture(scope="module")
def api(superset: str, frontend: Frontend) -> Frontend:
    """The frontend, once it knows the model."""
    wait_until(lambda: superset in {card["id"] for card in frontend.get("/v1/models").json.get("data", ())})
    return frontend


@pytest.mark.parametrize("name", SUMS)
def test_a_conversation_is_answered_where(name: str, api: Frontend) -> None:
    answer = api.post(CHAT, {"model": MODEL, "messages": SUMS[name], "temperature": 0, "max_tokens": 8})
    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == "5"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_seen_where(name: str, api: Frontend) -> None:
    answer = api.post(CHAT, {"model": MODEL, "messages": seeing(IMAGES[name]), "temperature": 0, "max_tokens": 30})
    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == PICTURE.answer()


@pytest.mark.parametrize("name", ITEMS)
def test_items_are_read_again_where(name: str, api: Frontend) -> None:
    items = [{"role": "user", "content": "hi"}, *ITEMS[name], SUM]
    answer = api.post(RESPONSES, {"model": MODEL, "input": items, "temperature": 0, "max_output_tokens": 8})
    assert answer.status == 200, answer.body
    assert answer.json["output"][-1]["content"][0]["text"] == "5"


def test_a_coding_agent_of_anthropics_api(api: Frontend) -> None:
    """Caching hints, a list as system, thinking, and an image in the result of a tool."""
    hint = {"cache_control": {"type": "ephemeral"}}
    source = {"type": "base64", "media_type": "image/png", "data": b64(PICTURE.encoded())}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "image", "source": source}]}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "look", **hint}]},
        {"role": "assistant", "content": [thought, {"type": "tool_use", "id": "t1", "name": "look", "input": {}}]},
        {"role": "user", "content": [result, DESCRIBE]},
    ]
    tools = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    body = {"model": MODEL, "messages": messages, "tools": tools, "max_tokens": 30, "temperature": 0}
    answer = api.post(MESSAGES, {**body, "system": [{"type": "text", "text": "be short", **hint}]})
    assert answer.status == 200, answer.body
    assert answer.json["content"][0]["text"] == PICTURE.answer()


def test_a_query_is_no_part_of_the_route(api: Frontend) -> None:
    """As clients of Azure send their version."""
    answer = api.post(f"{CHAT}?api-version=2024-06-01", {"model": MODEL, "messages": [SUM], "temperature": 0})
    assert answer.status == 200, answer.body


def test_generate_takes_an_object_of_parameters(client: Client, superset: str) -> None:
    """And one image without a list, as an example of the official backend has it."""
    parameters = {"stream": False, "max_tokens": 30, "temperature": 0}
    given = {"text_input": "Describe the image.", "image": b64(PICTURE.encoded()), "parameters": parameters}
    answer = client.generate(superset, **given)
    assert answer.status == 200, answer.body
    assert answer.text == PICTURE.answer()
