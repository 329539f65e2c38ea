"""The loader with URLs and files: which source an element has, what happens first, and in which order it comes back."""

from __future__ import annotations

import asyncio
import base64
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from PIL import Image

from tests.support.images import BLUE, GREEN, RED, encode
from tests.support.media_servers import MediaServer, NamedAddresses, Write, answer, drip, serving
from vllm_custom.contract.hosts import HostPattern
from vllm_custom.contract.settings import Settings
from vllm_custom.errors import InvalidRequestError, MediaLimitError
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.sources.fetch import Fetcher, FetchLimits
from vllm_custom.media.sources.policy import MediaPolicy

WHITE = (255, 255, 255)
FILES = {colour: encode(Image.new("RGB", (8, 8), colour)) for colour in (RED, GREEN, BLUE, WHITE)}


def elements(*raws: str | bytes) -> list[MediaElement]:
    return [
        MediaElement("image", f"image[{index}]", raw.encode() if isinstance(raw, str) else raw)
        for index, raw in enumerate(raws)
    ]


@pytest.fixture
async def server() -> AsyncIterator[MediaServer]:
    async with serving("127.0.0.1", answers={"/red.png": answer(FILES[RED])}) as (made,):
        yield made


@pytest.fixture
def make_loader(server: MediaServer, tmp_path: Path) -> Iterator[Callable[..., MediaLoader]]:
    made: list[MediaLoader] = []

    def make(**parameters: str) -> MediaLoader:
        settings = Settings.from_model_config(
            {
                "name": "model",
                "parameters": {
                    key: {"string_value": value}
                    for key, value in ({"ALLOWED_LOCAL_MEDIA_PATH": str(tmp_path)} | parameters).items()
                },
            }
        )
        policy = MediaPolicy((HostPattern("media.test", port=server.port),), (ip_network("127.0.0.0/8"),))
        limits = FetchLimits(settings.media_max_bytes, 60, settings.media_fetch_concurrency)
        fetcher = Fetcher(policy, limits, NamedAddresses({"media.test": [["127.0.0.1"]]}))
        made.append(MediaLoader(settings, {"image": 30, "video": 1}, fetcher))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def test_every_source_in_one_request_and_the_order_is_kept(
    server: MediaServer, make_loader: Callable[..., MediaLoader], tmp_path: Path
) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(answer(FILES[BLUE]))
        await writer.drain()

    server.answers["/slow.png"] = slow
    (tmp_path / "green.png").write_bytes(FILES[GREEN])
    sources = [
        f"http://media.test:{server.port}/slow.png",
        FILES[RED],
        base64.b64encode(FILES[WHITE]),
        (tmp_path / "green.png").as_uri(),
        f"http://media.test:{server.port}/red.png",
        b"data:image/png;base64," + base64.b64encode(FILES[BLUE]),
    ]
    decoded = await make_loader().load(elements(*sources))
    assert [item.data.getpixel((0, 0)) for item in decoded] == [BLUE, RED, WHITE, GREEN, RED, BLUE]
    assert decoded[1].uuid == decoded[4].uuid, "the id is the content's, wherever it came from"


async def test_thirty_urls_are_fetched_at_the_same_time(
    server: MediaServer, make_loader: Callable[..., MediaLoader]
) -> None:
    waiting = 0
    all_wait = asyncio.Event()

    def delayed(colour: tuple[int, int, int]) -> Write:
        async def send(writer: asyncio.StreamWriter) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == 30:
                all_wait.set()
            await all_wait.wait()
            writer.write(answer(FILES[colour]))
            await writer.drain()

        return send

    colours = [(RED, GREEN, BLUE)[index % 3] for index in range(30)]
    server.answers |= {f"/{index}": delayed(colour) for index, colour in enumerate(colours)}
    urls = [f"http://media.test:{server.port}/{index}" for index in range(30)]
    decoded = await asyncio.wait_for(make_loader().load(elements(*urls)), 60)
    assert [item.data.getpixel((0, 0)) for item in decoded] == colours


async def test_the_loop_is_free_while_twenty_slow_servers_answer(
    server: MediaServer, make_loader: Callable[..., MediaLoader]
) -> None:
    all_asked, go_on = asyncio.Event(), asyncio.Event()
    asked = 0

    async def slow(writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 20:
            all_asked.set()
        await go_on.wait()
        writer.write(answer(FILES[RED]))
        await writer.drain()

    server.answers["/slow"] = slow
    task = asyncio.create_task(make_loader().load(elements(*[f"http://media.test:{server.port}/slow"] * 20)))
    await asyncio.wait_for(all_asked.wait(), 60)
    go_on.set()
    assert len(await asyncio.wait_for(task, 60)) == 20


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("http://evil.test/a.png", r"image\[1\]: the URL names a host that is not allowed by ALLOWED_MEDIA_DOMAINS"),
        ("http://media.test/\xff", r"image\[1\]: the URL names a port"),
        ("gopher://media.test/", None),
        (b"http://media.test/\xff", r"image\[1\]: the URL is not a valid"),
    ],
)
async def test_one_refused_url_and_nothing_is_fetched(
    server: MediaServer, make_loader: Callable[..., MediaLoader], refused: str | bytes, message: str | None
) -> None:
    good = f"http://media.test:{server.port}/red.png"
    with pytest.raises(InvalidRequestError, match=message or "references are not allowed"):
        await make_loader().load(elements(good, refused, good))
    assert message is None or server.connections == 0


async def test_too_many_urls_and_nothing_is_fetched(
    server: MediaServer, make_loader: Callable[..., MediaLoader]
) -> None:
    with pytest.raises(InvalidRequestError, match="image: expected at most 30 item"):
        await make_loader().load(elements(*[f"http://media.test:{server.port}/red.png"] * 31))
    assert server.connections == 0


async def test_the_first_failure_in_order_is_told_and_the_other_fetches_end(
    server: MediaServer, make_loader: Callable[..., MediaLoader]
) -> None:
    server.answers |= {"/never": drip, "/text": answer(b"<html>not a picture</html>")}
    base = f"http://media.test:{server.port}"
    with pytest.raises(InvalidRequestError, match=r"image\[1\]: .*got an HTML page"):
        await make_loader().load(elements(f"{base}/red.png", f"{base}/text", f"{base}/never", f"{base}/missing"))
    await asyncio.wait_for(server.all_closed.wait(), 5)


async def test_a_cancelled_request_ends_its_fetches(
    server: MediaServer, make_loader: Callable[..., MediaLoader]
) -> None:
    begun = asyncio.Event()

    async def never(writer: asyncio.StreamWriter) -> None:
        begun.set()
        await asyncio.sleep(30)

    server.answers["/never"] = never
    task = asyncio.create_task(make_loader().load(elements(*[f"http://media.test:{server.port}/never"] * 5)))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)


async def test_files_are_read_and_bodies_unpacked_in_threads(
    server: MediaServer, make_loader: Callable[..., MediaLoader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def note(*_: object) -> bytes:
        threads.append(threading.current_thread().name)
        return FILES[RED]

    media = make_loader()
    monkeypatch.setattr("vllm_custom.media.sources.fetch.Body.decoded", note)
    monkeypatch.setattr("vllm_custom.media.sources.local.LocalFiles.read", note)
    monkeypatch.setattr("vllm_custom.media.sources.reading.encoded_bytes", note)
    await media.load(elements(f"http://media.test:{server.port}/red.png", (tmp_path / "a").as_uri(), b"AAAA"))
    assert len(threads) == 3
    assert sorted(name.rpartition("_")[0] for name in threads) == ["vllm_custom_files"] + ["vllm_custom_media"] * 2


async def test_a_file_that_cannot_be_read_in_time_is_given_up(
    make_loader: Callable[..., MediaLoader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system whose server has gone; media from elsewhere are still served."""
    go_on = threading.Event()
    monkeypatch.setattr("vllm_custom.media.sources.local.LocalFiles.read", lambda *_: go_on.wait(60))
    media = make_loader(MEDIA_FETCH_TIMEOUT_SECONDS="1")
    requests = [media.load(elements((tmp_path / "a").as_uri())) for _ in range(9)]
    errors = await asyncio.gather(*requests, return_exceptions=True)
    (item,) = await media.load(elements(FILES[RED]))
    go_on.set()
    assert item.data.getpixel((0, 0)) == RED
    assert {str(error) for error in errors} == {
        (
            "image[0]: expected the file within 1 seconds (MEDIA_FETCH_TIMEOUT_SECONDS of this model), "
            "it was not read in time"
        )
    }


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("http://example.com/a.png", "http: references are not allowed by this model (ALLOWED_MEDIA_DOMAINS is empty)"),
        ("HTTPS://127.0.0.1/a", "https: references are not allowed by this model (ALLOWED_MEDIA_DOMAINS is empty)"),
        ("file:///etc/passwd", "file: references are not allowed by this model (ALLOWED_LOCAL_MEDIA_PATH is not set)"),
        ("ftp://example.com/a.png", "ftp: references are not allowed by this model"),
        ("vllm-custom-media:0123", "vllm-custom-media: references are not allowed by this model"),
    ],
)
async def test_nothing_is_allowed_by_default(reference: str, why: str) -> None:
    media = MediaLoader(Settings.from_model_config({"name": "model"}), {"image": 1})
    with pytest.raises(InvalidRequestError) as error:
        await media.load(elements(reference))
    assert str(error.value) == f"image[0]: {why}; expected base64, a data: URI or the encoded file's bytes"
    media.close()


async def test_the_lists_of_config_pbtxt_reach_the_fetcher(server: MediaServer) -> None:
    parameters = {
        "ALLOWED_MEDIA_DOMAINS": f"127.0.0.1:{server.port}",
        "ALLOWED_MEDIA_NETWORKS": "127.0.0.1/32",
        "MEDIA_MAX_BYTES": "500",
    }
    server.answers["/large"] = answer(bytes(501))
    for left_out in (None, "ALLOWED_MEDIA_NETWORKS"):
        given = {key: {"string_value": value} for key, value in parameters.items() if key != left_out}
        media = MediaLoader(Settings.from_model_config({"name": "model", "parameters": given}), {"image": 1})
        url = f"http://127.0.0.1:{server.port}"
        if left_out:
            with pytest.raises(InvalidRequestError, match=left_out):
                await media.load(elements(f"{url}/red.png"))
        else:
            (item,) = await media.load(elements(f"{url}/red.png"))
            assert item.data.getpixel((0, 0)) == RED
            with pytest.raises(InvalidRequestError, match=r"image\[0\]: .* 500 bytes \(MEDIA_MAX_BYTES"):
                await media.load(elements(f"{url}/large"))
        media.close()


def test_the_resolver_is_closed_with_the_loader() -> None:
    resolver = NamedAddresses({})
    fetcher = Fetcher(MediaPolicy(), FetchLimits(1, 1, 1), resolver)
    MediaLoader(Settings.from_model_config({"name": "model"}), {}, fetcher).close()
    assert resolver.closed


@pytest.mark.parametrize("packed", [False, True])
async def test_files_of_a_request_count_together_as_they_come(
    server: MediaServer, make_loader: Callable[..., MediaLoader], packed: bool
) -> None:
    """128 URLs of 64 MiB each were 8 GiB in the model's process before the first was looked at."""
    body = encode(Image.new("RGB", (100, 100), RED), "BMP")
    server.answers["/file"] = answer(gzip.compress(body), Content_Encoding="gzip") if packed else answer(body)
    media = make_loader(MEDIA_REQUEST_BYTES="50000")
    urls = [f"http://media.test:{server.port}/file"] * 2
    with pytest.raises(MediaLimitError, match=r"files of at most 50000 bytes together \(MEDIA_REQUEST_BYTES"):
        await media.load(elements(*urls))
    (await media.load(elements(urls[0]))).release()


async def test_a_body_is_left_where_the_files_of_its_request_are_too_many(
    server: MediaServer, make_loader: Callable[..., MediaLoader]
) -> None:
    server.answers["/drip"] = drip
    media = make_loader(MEDIA_REQUEST_BYTES="20")
    with pytest.raises(MediaLimitError, match="MEDIA_REQUEST_BYTES"):
        await media.load(elements(*[f"http://media.test:{server.port}/drip"] * 8))
    await asyncio.wait_for(server.all_closed.wait(), 5)


async def test_requests_wait_for_each_others_files(
    server: MediaServer, make_loader: Callable[..., MediaLoader]
) -> None:
    """What may come is taken of MEDIA_INFLIGHT_BYTES, and given back when it is known how much has come."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(answer(FILES[RED]))
        await writer.drain()

    server.answers["/slow"] = slow
    media = make_loader(MEDIA_MAX_BYTES="4000", MEDIA_REQUEST_BYTES="4000", MEDIA_INFLIGHT_BYTES="4000")
    base = f"http://media.test:{server.port}"
    first = asyncio.create_task(media.load(elements(f"{base}/slow")))
    await asyncio.wait_for(asked.wait(), 60)
    others = [asyncio.create_task(media.load(elements(f"{base}/red.png"))) for _ in range(3)]
    others[0].cancel()
    await asyncio.sleep(0.1)
    assert server.targets == ["/slow"], "the others wait"
    go_on.set()
    for task in (first, *others[1:]):
        (await asyncio.wait_for(task, 60)).release()
    assert (media._file_budget.used, media._budget.used) == (0, 0)
