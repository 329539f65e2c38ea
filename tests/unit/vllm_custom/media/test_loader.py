"""Media are counted first, decoded in processes of their own, and handed to vLLM by handles."""

import asyncio
import base64
import gc
import hashlib
import inspect
import logging
import os
import signal
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.support.audio import RATE, film, greys, sound, tone
from tests.support.decoder_workers import loader, stop, until, workers
from tests.support.images import BLUE, GREEN, RED, encode, gif
from vllm_custom.contract.settings import Settings
from vllm_custom.engine.vllm import install_connector
from vllm_custom.errors import InvalidRequestError
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.handles import MediaHandles
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.metrics import LimitRecord, Record
from vllm_custom.media.sources.reading import Sources

COLOURS = [RED, GREEN, BLUE]


def images() -> list[bytes]:
    return [encode(Image.new("RGB", (8, 8), colour)) for colour in COLOURS]


def elements(*raws: bytes, modality: str = "image") -> list[MediaElement]:
    return [MediaElement(modality, f"{modality}[{index}]", raw) for index, raw in enumerate(raws)]


@pytest.fixture
def media() -> Iterator[MediaLoader]:
    limits = {"image": 3, "video": 1, "audio": 2}
    made = MediaLoader(Settings.from_model_config({"name": "model"}), limits, audio_rate=RATE)
    yield made
    made.close()


async def test_the_order_is_kept(media: MediaLoader) -> None:
    decoded = await media.load(elements(*images()))
    assert [item.data.getpixel((0, 0)) for item in decoded] == COLOURS


async def test_the_id_is_the_files_hash_however_it_was_sent(media: MediaLoader) -> None:
    (picture, *_) = images()
    decoded = await media.load(
        elements(picture, base64.b64encode(picture), b"data:;base64," + base64.b64encode(picture))
    )
    assert {item.uuid for item in decoded} == {f"image-{hashlib.sha256(picture).hexdigest()}"}


async def test_a_video_has_another_id_than_the_same_file_as_an_image(media: MediaLoader) -> None:
    data = gif(COLOURS)
    picture, video = await media.load([*elements(data), *elements(data, modality="video")])
    assert picture.data.size == (16, 8)
    assert video.data[0].shape == (3, 8, 16, 3)
    assert picture.uuid != video.uuid


async def test_the_id_of_a_video_depends_on_the_frames_taken() -> None:
    ids = set()
    for frames in ("2", "3"):
        config = {"name": "model", "parameters": {"VIDEO_MAX_FRAMES": {"string_value": frames}}}
        media = MediaLoader(Settings.from_model_config(config), {"video": 1})
        ((video),) = await media.load(elements(gif(COLOURS), modality="video"))
        assert len(video.data[0]) == int(frames)
        ids.add(video.uuid)
        media.close()
    assert len(ids) == 2


async def test_the_frames_that_a_request_asks_for_are_taken(media: MediaLoader) -> None:
    asked = [FrameSampling(2), FrameSampling(3), FrameSampling(None, 5.0)]
    videos = [(await media.load(elements(gif(COLOURS), modality="video"), media.frames(one)))[0] for one in asked]
    assert [len(video.data[0]) for video in videos] == [2, 3, 1]
    assert len({video.uuid for video in videos}) == 3


async def test_a_request_chooses_what_shows_through_its_images(media: MediaLoader) -> None:
    """The cache keeps the two apart."""
    clear = encode(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    asked = FrameSampling.requested(None, None, {"image": {"rgba_background_color": [1, 2, 3]}})
    for sampling, colour in ((asked, (1, 2, 3)), (FrameSampling(), (255, 255, 255)), (asked, (1, 2, 3))):
        (item,) = await media.load(elements(clear), media.frames(sampling))
        assert item.data.getpixel((0, 0)) == colour
        assert ("-on-1-2-3-" in item.uuid) is (sampling is asked)


async def test_frames_in_hand_are_a_video(media: MediaLoader) -> None:
    """The form that vLLM documents; ``fps`` says how they were made, and all of them are taken."""
    frames = [encode(Image.new("RGB", (16, 8), colour), "JPEG") for colour in COLOURS]
    uri = b"data:video/jpeg;base64," + b",".join(map(base64.b64encode, frames))
    for asked, rate in ((FrameSampling(), 1.0), (FrameSampling(None, 0.5), 0.5)):
        (video,) = await media.load(elements(uri, modality="video"), media.frames(asked))
        shown, metadata = video.data
        assert shown.shape == (len(COLOURS), 8, 16, 3)
        assert (metadata["fps"], metadata["video_backend"]) == (rate, "jpeg_sequence")
        assert metadata["frames_indices"] == list(range(len(COLOURS)))
    with pytest.raises(InvalidRequestError, match=r"image\[0\]: expected one of JPEG"):
        await media.load(elements(uri))


async def test_audio_comes_at_the_models_rate(media: MediaLoader) -> None:
    data = sound(tone(rate=8_000), rate=8_000)
    (decoded,) = await media.load(elements(base64.b64encode(data), modality="audio"))
    samples, rate = decoded.data
    assert (samples.shape, rate) == ((RATE,), RATE)


async def test_images_videos_and_audio_files_of_one_request_keep_their_order(media: MediaLoader) -> None:
    (picture, *_) = images()
    mixed = [
        *elements(sound(tone(seconds=0.5)), modality="audio"),
        *elements(picture),
        *elements(gif(COLOURS), modality="video"),
        *elements(b"", sound(tone(seconds=0.25)), modality="audio")[1:],
    ]
    first, image, video, second = await media.load(mixed)
    assert (len(first.data[0]), image.data.size, len(video.data[0]), len(second.data[0])) == (8000, (8, 8), 3, 4000)


async def test_a_video_has_other_ids_as_audio_and_as_a_video(media: MediaLoader, vllm: None) -> None:
    data = film(greys(), audio=tone(rate=48_000))
    heard, seen = await media.load([*elements(data, modality="audio"), *elements(data, modality="video")])
    assert heard.uuid != seen.uuid


@pytest.mark.parametrize(
    ("parameter", "value", "given", "rule"),
    [
        ("MEDIA_MAX_BYTES", "20", elements(images()[0]), "bytes"),
        ("IMAGE_MAX_PIXELS", "63", elements(images()[0]), "pixels"),
        ("VIDEO_MAX_PIXELS", "100", elements(gif(COLOURS), modality="video"), "pixels"),
        ("AUDIO_MAX_SECONDS", "1", elements(sound(tone(seconds=1.5)), modality="audio"), "seconds"),
        ("MEDIA_MAX_ITEMS", "2", elements(*images()), "items"),
        ("MEDIA_MAX_ITEMS", "9", elements(*images(), *images()), "items"),  # limit_mm_per_prompt
    ],
)
async def test_media_beyond_a_limit_are_counted(
    parameter: str, value: str, given: list[MediaElement], rule: str
) -> None:
    records: list[Record] = []
    config = {"name": "model", "parameters": {parameter: {"string_value": value}}}
    limits = {"image": 3, "video": 1, "audio": 2}
    media = MediaLoader(Settings.from_model_config(config), limits, observe=records.append)
    with pytest.raises(InvalidRequestError):
        await media.load(given)
    media.close()
    assert [record.rule for record in records if isinstance(record, LimitRecord)] == [rule]


async def test_nothing_is_loaded_for_a_prompt_without_media(media: MediaLoader) -> None:
    assert [*await media.load([])] == []


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"image": 4}, r"image: expected at most 3 item\(s\) per prompt \(limit_mm_per_prompt of this model\), got 4"),
        ({"image": 1, "video": 2}, r"video: expected at most 1 item\(s\) per prompt"),
        ({"image": 3, "audio": 3}, r"audio: expected at most 2 item\(s\) per prompt"),
        ({"depth": 1}, r"depth: this model takes no depth input"),
    ],
)
async def test_counts_are_checked_before_anything_is_decoded(
    media: MediaLoader, counts: dict[str, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sources, "read", lambda *_: pytest.fail("read"))
    sent = [element for name, count in counts.items() for element in elements(*[b"x"] * count, modality=name)]
    with pytest.raises(InvalidRequestError, match=message):
        await media.load(sent)


async def test_a_text_model_says_that_it_takes_no_images() -> None:
    media = MediaLoader(Settings.from_model_config({"name": "model"}), {})
    assert media.modalities == []
    with pytest.raises(InvalidRequestError, match="image: this model takes no image input"):
        await media.load(elements(b"x"))
    media.close()


async def test_of_several_refused_the_first_in_order_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Its worker hangs for a while, so that the others are refused before."""
    records: list[Record] = []
    # The one that hangs is not ended before the other one has started, however busy the machine is.
    with loader(records.append, MEDIA_CONCURRENCY=2, MEDIA_DECODE_SECONDS=300) as media:
        stop(workers(media)[0])
        with caplog.at_level(logging.ERROR, "asyncio"):
            task = asyncio.create_task(media.load(elements(*[b"\0no image"] * 3)))
            await until(lambda: len(workers(media)) == 2)
            await asyncio.sleep(0.1)
            os.kill(workers(media)[0], signal.SIGCONT)
            with pytest.raises(InvalidRequestError, match=r"image\[0\]: expected one of JPEG"):
                await task
            await asyncio.sleep(0)
        gc.collect()
    assert not caplog.records, "the other errors were left to asyncio's handler"


def test_handles_stand_for_media_inside_the_block_only() -> None:
    table = MediaHandles()
    with table.register(["first", "second"]) as handles:
        assert [table.resolve(handle) for handle in handles] == ["first", "second"]
        assert [table.resolve(handle) for handle in handles] == ["first", "second"]
    for handle in handles:
        with pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
            table.resolve(handle)


def test_handles_go_when_the_block_fails() -> None:
    table = MediaHandles()
    with pytest.raises(RuntimeError), table.register(["first"]) as handles:
        raise RuntimeError
    with pytest.raises(InvalidRequestError):
        table.resolve(handles[0])


def test_every_loan_has_handles_of_its_own() -> None:
    table, item = MediaHandles(), "x"
    with table.register([item, item]) as first, table.register([item, item]) as second:
        assert len({*first, *second}) == 4
    with table.register([]) as none:
        assert none == []


async def test_vllm_loads_nothing_by_itself(vllm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither files nor URLs nor tensors: a client could hand it a pickle."""
    from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # all of these are put back
    for name in ("VLLM_MEDIA_CONNECTOR", "VLLM_MAX_IMAGE_PIXELS"):
        monkeypatch.setenv(name, "")
    install_connector(MediaHandles(), 1000, 30)
    connector = MEDIA_CONNECTOR_REGISTRY.load("vllm_custom")
    names = [name for name in dir(connector) if name.startswith(("fetch_", "load_from_url"))]
    assert {"load_from_url", "fetch_image_embedding", "fetch_audio_embedding", "fetch_video_embedding"} <= set(names)

    async def call(name: str) -> None:
        media_io = [None] if name.startswith("load_from_url") else []
        result = getattr(connector, name)("data:image/png;base64,AAAA", *media_io)
        if inspect.isawaitable(result):
            await result

    for name in names:
        with pytest.raises(ValueError, match="not resolved by the media rules"):
            await call(name)


@pytest.mark.parametrize("url", ["", "http://example.com/a.png", "data:,x", "file:///etc/passwd", "vllm-custom-media:"])
def test_other_urls_are_refused(url: str) -> None:
    with MediaHandles().register([]), pytest.raises(InvalidRequestError, match="not resolved by the media rules"):
        MediaHandles().resolve(url)
