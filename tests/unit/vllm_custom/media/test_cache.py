"""Identical media are decoded once: what is kept, what is dropped, and who waits for whom."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from tests.support.images import BLUE, GREEN, RED, encode, gif
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.cache import MediaCache, decoded_size
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.metrics import CacheSizeRecord, DecodeRecord, LookupRecord, Record
from vllm_custom.media.sources.reading import Sources

BLOCK = 100


class Decoder:
    """Counts its calls; each waits until it is let go."""

    def __init__(self, result: object = None, *, gated: bool = False) -> None:
        self.calls = 0
        self.ended_early = 0
        self.go = asyncio.Event()
        self._result = np.zeros(BLOCK, np.uint8) if result is None else result
        if not gated:
            self.go.set()

    async def __call__(self) -> object:
        self.calls += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended_early += 1
            raise
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_was_decoded_is_handed_out_again() -> None:
    records: list[Record] = []
    cache, decode = MediaCache(BLOCK, records.append), Decoder()
    first = await cache.get("a", decode)
    assert await cache.get("a", decode) is first
    assert decode.calls == 1
    assert records == [LookupRecord("miss"), CacheSizeRecord(BLOCK), LookupRecord("hit")]


async def test_the_least_recently_used_goes_first_and_the_bound_holds() -> None:
    cache = MediaCache(2 * BLOCK)
    decoders = {key: Decoder() for key in "abc"}
    for key in "abac":  # b is what was not used for the longest time when c comes
        await cache.get(key, decoders[key])
        assert cache.size <= 2 * BLOCK
    for key in "acb":
        await cache.get(key, decoders[key])
    assert {key: decode.calls for key, decode in decoders.items()} == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize("max_bytes", [0, BLOCK - 1])
async def test_what_is_larger_than_the_cache_is_not_kept_and_drops_nothing(max_bytes: int) -> None:
    cache, small, large = MediaCache(max_bytes), Decoder(np.zeros(0, np.uint8)), Decoder()
    await cache.get("small", small)
    for _ in range(2):
        await cache.get("large", large)
    await cache.get("small", small)
    assert (small.calls, large.calls, cache.size) == (1, 2, 0)


@pytest.mark.parametrize("max_bytes", [0, BLOCK])
async def test_requests_at_the_same_time_share_one_decoding(max_bytes: int) -> None:
    records: list[Record] = []
    cache, decode = MediaCache(max_bytes, records.append), Decoder(gated=True)
    tasks = [asyncio.create_task(cache.get("a", decode)) for _ in range(10)]
    await settle()
    decode.go.set()
    results = await asyncio.gather(*tasks)
    assert decode.calls == 1
    assert all(result is results[0] for result in results)
    assert [record.result for record in records if isinstance(record, LookupRecord)] == ["miss"] + ["shared"] * 9


@pytest.mark.parametrize("leaving", [[0], [1, 2], [0, 1]])
async def test_who_is_cancelled_leaves_the_others_their_decoding(leaving: list[int]) -> None:
    cache, decode = MediaCache(BLOCK), Decoder(gated=True)
    tasks = [asyncio.create_task(cache.get("a", decode)) for _ in range(3)]
    await settle()
    for index in leaving:
        tasks[index].cancel()
    await settle()
    decode.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [i in leaving for i in range(3)]
    assert (decode.calls, decode.ended_early) == (1, 0)


async def test_the_last_one_to_leave_ends_the_decoding_and_the_next_starts_anew() -> None:
    cache, decode = MediaCache(BLOCK), Decoder(gated=True)
    tasks = [asyncio.create_task(cache.get("a", decode)) for _ in range(2)]
    await settle()
    for task in tasks:
        task.cancel()
    following = Decoder()
    again = await asyncio.gather(cache.get("a", following), *tasks, return_exceptions=True)
    assert isinstance(again[0], np.ndarray)
    await settle()
    assert (decode.calls, decode.ended_early, following.calls) == (1, 1, 1)


async def test_everybody_gets_the_error_of_an_own_attempt_and_none_is_kept() -> None:
    cache = MediaCache(BLOCK)
    decoders = [Decoder(InvalidRequestError(f"image[{index}]: damaged"), gated=True) for index in range(3)]
    tasks = [asyncio.create_task(cache.get("a", decode)) for decode in decoders]
    await settle()
    for decode in decoders:
        decode.go.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in errors] == [f"image[{index}]: damaged" for index in range(3)]
    good = Decoder()
    await cache.get("a", good)
    assert good.calls == 1


def test_sizes_are_those_of_the_decoded_data() -> None:
    image, frames = Image.new("RGB", (10, 20)), np.zeros((2, 3, 4, 3), np.uint8)
    assert decoded_size(image) == 800
    assert decoded_size((frames, {"fps": 1.0})) == 72
    assert decoded_size((np.zeros(5, np.float32), 16000)) == 20


@pytest.fixture
def make_loader() -> Iterator[Callable[..., MediaLoader]]:
    made: list[MediaLoader] = []

    def make(records: list[Record], **parameters: str) -> MediaLoader:
        given = {key: {"string_value": value} for key, value in parameters.items()}
        settings = Settings.from_model_config({"name": "model", "parameters": given})
        made.append(MediaLoader(settings, {"image": 99, "video": 99}, observe=records.append))
        return made[-1]

    yield make
    for one in made:
        one.close()


def elements(*raws: bytes, modality: str = "image") -> list[MediaElement]:
    return [MediaElement(modality, f"{modality}[{index}]", raw) for index, raw in enumerate(raws)]


def results(records: list[Record]) -> list[str]:
    return [record.result for record in records if isinstance(record, LookupRecord)]


async def test_one_image_in_three_forms_and_two_requests_is_decoded_once(
    make_loader: Callable[..., MediaLoader],
) -> None:
    records: list[Record] = []
    media, image = make_loader(records), encode(Image.new("RGB", (8, 8), RED))
    forms = elements(image, base64.b64encode(image), b"data:image/png;base64," + base64.b64encode(image))
    first, second = [*await media.load(forms)], [*await media.load(forms)]
    assert len({item.uuid for item in first + second}) == 1
    assert [item.data.getpixel((0, 0)) for item in first + second] == [RED] * 6
    assert sum(isinstance(record, DecodeRecord) for record in records) == 1
    assert sorted(results(records)) == ["hit"] * 3 + ["miss"] + ["shared"] * 2
    assert [record.size for record in records if isinstance(record, CacheSizeRecord)] == [8 * 8 * 4]


async def test_the_cache_stays_within_its_parameter(make_loader: Callable[..., MediaLoader]) -> None:
    records: list[Record] = []
    media = make_loader(records, MEDIA_CACHE_BYTES="400")
    sent = [elements(encode(Image.new("RGB", (8, 8), colour))) for colour in (RED, GREEN, BLUE)]
    for one in [*sent, sent[2], sent[0]]:
        await media.load(one)
    assert results(records) == ["miss", "miss", "miss", "hit", "miss"]
    assert max(record.size for record in records if isinstance(record, CacheSizeRecord)) <= 400


async def test_no_file_can_take_the_place_of_another_ones_content(make_loader: Callable[..., MediaLoader]) -> None:
    """The options of a video were once hashed after the file: an image that ended in them had the video's name."""
    video = gif([RED, GREEN, BLUE])
    forged = video + b"frames=32"
    media = make_loader([])
    items = await media.load([*elements(video, modality="video"), *elements(video, forged)])
    assert len({item.uuid for item in items}) == 3


async def test_a_damaged_image_is_named_by_each_requests_own_field(make_loader: Callable[..., MediaLoader]) -> None:
    media, damaged = make_loader([]), encode(Image.new("RGB", (64, 64), RED))[:-30]
    requests = [media.load([MediaElement("image", f"messages[{index}]", damaged)]) for index in range(3)]
    errors = await asyncio.gather(*requests, return_exceptions=True)
    assert [str(error).partition(":")[0] for error in errors] == ["messages[0]", "messages[1]", "messages[2]"]


async def test_more_items_than_the_parameter_are_refused_before_any_work(
    make_loader: Callable[..., MediaLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sources, "read", lambda *_: pytest.fail("read"))
    media = make_loader([], MEDIA_MAX_ITEMS="3")
    sent = [*elements(b"x", b"x"), *elements(b"x", b"x", modality="video")]
    with pytest.raises(
        InvalidRequestError, match=r"media: expected at most 3 items \(MEDIA_MAX_ITEMS of this model\), got 4"
    ):
        await media.load(sent)
