"""Media of an OpenAI body: loaded together when vLLM asks for the first, let go when it has all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from PIL import Image

from tests.support.decoder_workers import loader, state, stop, until, workers
from tests.support.images import BLUE, RED, encode
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.loader import MediaLoader
from vllm_custom.openai.media import RequestMedia, find_media


def media_of_request(media: MediaLoader, *raws: bytes) -> RequestMedia:
    elements = [MediaElement("image", f"messages[0].content[{index}]", raw) for index, raw in enumerate(raws)]
    return RequestMedia(media, elements, media.frames(FrameSampling()))


async def test_bytes_are_given_back_when_all_have_been_handed_over() -> None:
    """The request itself may go on for minutes."""
    with loader(MEDIA_CACHE_BYTES=0) as media:
        found = media_of_request(media, *(encode(Image.new("RGB", (8, 8), colour)) for colour in (RED, BLUE)))
        first = await found.get(0)
        assert media._budget.used == 2 * 8 * 8 * 4
        second = await found.get(1)
        assert media._budget.used == 0
        assert [image.getpixel((0, 0)) for image in (first, second)] == [RED, BLUE]
        assert (await found.get(1)).getpixel((0, 0)) == BLUE, "asked again"
        found.close()
        await until(lambda: media._budget.used == 0)


async def test_a_refused_one_refuses_all_and_holds_nothing() -> None:
    with loader() as media:
        found = media_of_request(media, encode(Image.new("RGB", (8, 8))), b"\0no image")
        errors = await asyncio.gather(found.get(0), found.get(1), return_exceptions=True)
        assert all(isinstance(error, InvalidRequestError) for error in errors)
        assert media._budget.used == 0
        found.close()


@pytest.mark.parametrize("asked", [0, 1])
async def test_the_end_of_the_request_ends_its_decoding(asked: int) -> None:
    with loader(MEDIA_CONCURRENCY=1) as media:
        (worker,) = workers(media)
        stop(worker)
        found = media_of_request(media, encode(Image.new("RGB", (8, 8), RED)), encode(Image.new("RGB", (8, 8), BLUE)))
        waiting = asyncio.create_task(found.get(asked))
        await asyncio.sleep(0.1)
        found.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: not state(worker))
        assert media._budget.used == 0


def test_images_that_a_tool_gave_are_found() -> None:
    """In the Responses API; each loses its id, which vLLM's caches would believe."""
    part = {"type": "input_image", "image_url": "http://a/1.png", "uuid": "mine"}
    body = {
        "input": [
            {"role": "user", "content": [dict(part)]},
            {"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}, dict(part)]},
            {"type": "function_call_output", "output": "text"},
        ]
    }
    found = find_media(body)
    assert [item.element.field for item in found] == ["input[0].content[0].image_url", "input[1].output[1].image_url"]
    assert [item.element.raw for item in found] == [b"http://a/1.png"] * 2
    assert all("uuid" not in item.container for item in found)


def test_images_of_anthropics_form_are_found() -> None:
    """In messages, and in the result of a tool. What cannot be had this way stays, and is refused later."""
    by_url = {"type": "image", "source": {"type": "url", "url": "http://a/1.png"}}
    as_base64 = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    by_id = {"type": "image", "source": {"type": "file", "file_id": "file-1"}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}, dict(by_url)]}
    body = {"messages": [{"role": "user", "content": [dict(as_base64), dict(by_id), result]}]}
    found = find_media(body)
    assert [(item.element.field, item.element.raw) for item in found] == [
        ("messages[0].content[0].source.data", b"aGk="),
        ("messages[0].content[2].content[1].source.url", b"http://a/1.png"),
    ]
    for item in found:
        item.container[item.key] = "handle"
    content: Any = body["messages"][0]["content"]
    assert content[0]["source"] == content[2]["content"][1]["source"] == {"type": "url", "url": "handle"}
    assert content[1] == by_id


def test_a_url_beside_the_type_of_its_part_is_found() -> None:
    """vLLM leaves such a part out, and the model answers about nothing."""
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "url": "http://a/1.png"}]}]}
    (item,) = find_media(body)
    assert (item.element.field, item.element.raw) == ("messages[0].content[0].image_url", b"http://a/1.png")
    assert body["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": "http://a/1.png"}}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "http://a/1.png"},
        {"type": "input_image", "image_url": "http://a/1.png"},
        {"type": "image", "image_url": {"url": "http://a/1.png"}},
    ],
)
def test_other_spellings_of_an_image_become_vllms(part: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": [dict(part), {"type": "input_text", "text": "x"}]}]}
    assert [item.element.raw for item in find_media(body)] == [b"http://a/1.png"]
    image = {"type": "image_url", "image_url": {"url": "http://a/1.png"}}
    assert body["messages"][0]["content"] == [image, {"type": "text", "text": "x"}]


@pytest.mark.parametrize("part", [{"image_url": None}, {"image_url": None, "uuid": "x"}, {"image_url": None, "url": 5}])
def test_a_part_without_its_medium_is_refused(part: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", **part}]}]}
    with pytest.raises(InvalidRequestError, match=r'^messages\[0\].content\[0\]: expected "image_url": '):
        find_media(body)


@pytest.mark.parametrize("name", ["documents", "queries", "data_1", "messages"])
def test_no_id_of_a_clients_own_reaches_vllm(name: str) -> None:
    """With the id of another client's image, a pair was scored as if the client had the image."""
    part: dict[str, Any] = {"type": "image_url", "image_url": None, "uuid": "image-0123"}
    holder = {"role": "user", "content": [part, "text"]}
    body: dict[str, Any] = {name: [[holder], "text"] if name == "messages" else [holder, "text"]}
    assert find_media(body) == []
    assert "uuid" not in part
    alone: dict[str, Any] = {"content": [dict(part, uuid="image-0123")]}
    find_media({"query": alone})
    assert "uuid" not in alone["content"][0]
