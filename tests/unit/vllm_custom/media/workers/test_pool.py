"""Media are decoded in processes of their own; one that crashes, hangs or grows costs its own item and no other."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.audio import film, greys, sound, tone
from tests.support.decoder_workers import busy, children, fork_server, loader, state, stop, until, workers
from tests.support.images import RED, encode, gif, halves
from tools.installer.paths import CHECKOUT
from vllm_custom.errors import BackendError, ConfigError, InvalidRequestError, MediaLimitError, UnavailableError
from vllm_custom.media.decoders.audio import decode_audio
from vllm_custom.media.decoders.frames import FrameSampling
from vllm_custom.media.decoders.image import decode_image
from vllm_custom.media.decoders.video import decode_video
from vllm_custom.media.elements import LoadedMedia, MediaElement
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.metrics import LimitRecord, Record
from vllm_custom.media.workers import ForkServer, pool

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

CORPUS = CHECKOUT / "tests/fuzz/corpus"
SMALL = encode(Image.new("RGB", (8, 8), RED))
MIB = 1 << 20


def elements(*raws: bytes, modality: str = "image") -> list[MediaElement]:
    return [MediaElement(modality, f"{modality}[{index}]", raw) for index, raw in enumerate(raws)]


def files() -> list[tuple[str, str, bytes]]:
    """Modality, name and content: the fuzzer's seeds, and images of each mode and format."""
    found = [
        (modality, path.name, path.read_bytes())
        for modality in ("image", "video", "audio")
        for path in sorted((CORPUS / modality).iterdir())
    ]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8))
    for name, modes in {
        "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "TIFF": ("RGB", "RGBA", "L", "1", "CMYK", "I;16", "F"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P", "L"),
        "BMP": ("RGB", "L", "1"),
    }.items():
        found += [("image", f"{name} {mode}", encode(noise.convert(mode), name)) for mode in modes]
    sideways = Image.Exif()
    sideways[0x0112] = 6
    found += [
        ("image", "turned", encode(halves(), "JPEG", exif=sideways)),
        ("image", "many stripes", encode(Image.new("RGB", (3000, 700), RED))),
        ("video", "mp4", film(greys(), rotation=90)),
        ("video", "webm", film(greys(), "webm", "libvpx-vp9", live=True)),
        ("video", "gif", gif([RED, (1, 2, 3), RED])),
        *(("audio", name, sound(tone(rate=44_100), name, 44_100)) for name in ("WAV", "FLAC", "MP3", "OGG")),
        ("audio", "mp4", film(greys(), audio=tone(rate=48_000))),
    ]
    return found


def outcome_here(modality: str, data: bytes) -> object:
    """What the decoders make of a file in this process."""
    try:
        if modality == "image":
            return digest(decode_image(data, "image[0]", 50_000_000))
        if modality == "audio":
            return digest(decode_audio(data, "audio[0]", 600, 16_000))
        return digest(decode_video(data, "video[0]", 50_000_000, 10**10, FrameSampling(32)))
    except BackendError as error:
        return f"{type(error).__name__} {error}"


async def outcome_there(media: MediaLoader, modality: str, data: bytes) -> object:
    """What a worker makes of it."""
    try:
        (item,) = await media.load([MediaElement(modality, f"{modality}[0]", data)])
        return digest(item.data)
    except BackendError as error:
        return f"{type(error).__name__} {error}"


def digest(data: object) -> object:
    """Comparable: bytes of arrays and images."""
    if isinstance(data, Image.Image):
        return data.mode, data.size, data.tobytes()
    if isinstance(data, np.ndarray):
        return data.dtype, data.shape, data.tobytes()
    return [digest(part) for part in data] if isinstance(data, tuple) else data


async def test_workers_make_the_same_of_each_file_as_the_decoders_do_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels, samples, metadata and errors; the worker can open no file, so all of this has been loaded before."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 25_000_000)  # what set_pixel_limit does for the process
    refused = 0
    with loader(MEDIA_CONCURRENCY=2) as media:
        for modality, name, data in files():
            expected = outcome_here(modality, data)
            assert await outcome_there(media, modality, data) == expected, name
            refused += isinstance(expected, str)
    assert 0 < refused < len(files()) / 2


async def test_what_is_loaded_is_not_held_by_the_worker_and_can_be_written_to() -> None:
    """torch.from_numpy warns of arrays that cannot be."""
    with loader() as media:
        (video,) = await media.load(elements(gif([RED, (1, 2, 3)]), modality="video"))
        os.kill(workers(media)[0], signal.SIGKILL)
        assert tuple(video.data[0][0, 0, 0]) == RED
        video.data[0][0, 0, 0] = 9
        assert tuple(video.data[0][0, 0, 0]) == (9, 9, 9)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_worker_that_ends_costs_its_item_and_is_replaced(number: int) -> None:
    with loader(MEDIA_CONCURRENCY=1) as media:
        (first,) = workers(media)
        stop(first)
        lost = asyncio.create_task(media.load(elements(SMALL)))
        await until(lambda: busy(media))
        waiting = asyncio.create_task(media.load(elements(encode(halves()))))
        os.kill(first, number)
        os.kill(first, signal.SIGCONT)
        with pytest.raises(InvalidRequestError, match=r"^image\[0\]: the process that decoded it ended unexpectedly$"):
            await lost
        assert (await waiting)[0].data.size == (32, 16)
        assert first not in workers(media)


async def test_a_worker_that_hangs_is_ended_and_replaced() -> None:
    records: list[Record] = []
    with loader(records.append, MEDIA_CONCURRENCY=1, MEDIA_DECODE_SECONDS=1) as media:
        (first,) = workers(media)
        stop(first)
        waiting = [asyncio.create_task(media.load(elements(SMALL))) for _ in range(2)]
        with pytest.raises(MediaLimitError, match=r"^image\[0\]: could not be decoded within 1 seconds \(MEDIA_"):
            await waiting[0]
        assert (await waiting[1])[0].data.getpixel((0, 0)) == RED
        await until(lambda: not state(first))
        assert LimitRecord("decode_seconds") in records


async def test_a_worker_that_grows_beyond_its_bytes_costs_its_item() -> None:
    large = encode(Image.new("RGB", (7000, 7000)))
    records: list[Record] = []
    with loader(records.append, MEDIA_CONCURRENCY=1, MEDIA_WORKER_BYTES=128 * MIB) as media:
        (first,) = workers(media)
        with pytest.raises(MediaLimitError, match=r"^image\[0\]: needed more than 134217728 bytes .*MEDIA_WORKER"):
            await media.load(elements(large))
        assert (await media.load(elements(SMALL)))[0].data.size == (8, 8)
        assert first not in workers(media)
        assert LimitRecord("memory") in records


async def test_an_idle_worker_that_has_gone_costs_nobody() -> None:
    with loader(MEDIA_CONCURRENCY=1) as media:
        (first,) = workers(media)
        os.kill(first, signal.SIGKILL)
        await until(lambda: not state(first))
        assert (await media.load(elements(SMALL)))[0].data.size == (8, 8)


async def test_a_fork_server_that_has_gone_is_started_again() -> None:
    with loader(MEDIA_CONCURRENCY=1) as media:
        server, (first,) = fork_server(media), workers(media)
        os.kill(server, signal.SIGKILL)
        await until(lambda: state(first) in ("", "Z"))
        assert (await media.load(elements(SMALL)))[0].data.size == (8, 8)
        assert fork_server(media) != server


async def test_a_cancelled_request_stops_its_decoding_and_drops_what_waits() -> None:
    with loader(MEDIA_CONCURRENCY=2) as media:
        (await media.load(elements(*(encode(Image.new("RGB", (9, side))) for side in range(1, 9))))).release()
        first = workers(media)
        assert len(first) == 2
        for worker in first:
            stop(worker)
        task = asyncio.create_task(
            media.load(elements(*(encode(Image.new("RGB", (8, side))) for side in range(1, 20))))
        )
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)
        await until(lambda: not any(state(worker) for worker in first))
        assert media._budget.used == 0
        assert (await asyncio.wait_for(media.load(elements(SMALL)), 60))[0].data.size == (8, 8)


async def test_many_workers_are_started_only_where_they_are_needed() -> None:
    with loader(MEDIA_CONCURRENCY=3) as media:
        for _ in range(3):
            await media.load(elements(encode(halves())))
        assert len(workers(media)) == 1
        await media.load(elements(*(encode(Image.new("RGB", (300, side))) for side in range(100, 120))))
        assert 1 < len(workers(media)) <= 3


async def test_descriptors_and_workers_stay_as_many_over_many_items() -> None:
    damaged = encode(Image.new("RGB", (64, 64), RED))[:-30]
    with loader(MEDIA_CONCURRENCY=1, MEDIA_CACHE_BYTES=0) as media:
        await media.load(elements(SMALL))
        before = descriptors()
        (worker,) = workers(media)
        for _ in range(100):
            await media.load(elements(SMALL))
            with contextlib.suppress(InvalidRequestError):
                await media.load(elements(damaged))
        assert workers(media) == [worker]
        assert descriptors() <= before


@pytest.mark.slow
async def test_the_front_does_not_grow_with_what_it_has_handed_out() -> None:
    large = encode(Image.new("RGB", (4000, 4000)))  # 48 MB
    with loader(MEDIA_CONCURRENCY=2, MEDIA_CACHE_BYTES=0) as media:
        for _ in range(3):
            (await media.load(elements(large))).release()
        before = resident()
        for _ in range(6):
            several = [await media.load(elements(large)) for _ in range(3)]
            assert several[0][0].data.resize((8, 8)).size == (8, 8)
            for one in several:
                one.release()
        del several, one
        assert resident() - before < 32 * MIB


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_closing_ends_everybody() -> None:
    with loader() as media:
        everybody = [fork_server(media), *workers(media)]
    assert len(everybody) == 2
    assert not any(state(process) for process in everybody)


PARENT = """
import os, sys, time
from vllm_custom.media.workers import ForkServer, pool
forks = ForkServer(1 << 30)
workers = [forks.start_worker() for _ in range(3)]
held = os.fork()  # a process that the engine forked, which holds the model's sockets
if held:
    print(forks._process.pid, held, flush=True)
time.sleep(600)
"""


def test_nobody_is_left_when_the_model_is_killed() -> None:
    """Even where another process has a copy of its sockets."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment())
    assert parent.stdout is not None
    server, held = map(int, parent.stdout.readline().split())
    everybody = [server, *children(server)]
    assert len(everybody) == 4
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        asyncio.run(until(lambda: not any(state(process) not in ("", "Z") for process in everybody)))
    finally:
        os.kill(held, signal.SIGKILL)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_set_up_that_cannot_work_is_seen_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    with loader() as media:
        monkeypatch.setattr("vllm_custom.media.workers.forks.get_executable", lambda: b"/no/such/python")
        forks = ForkServer(1 << 30)
        with pytest.raises(UnavailableError, match="no process that decodes media can be started"):
            forks.start_worker()
        media._pool._forks.close()
        with pytest.raises(ConfigError, match="no process that decodes media can be started"):
            media.start()


async def test_workers_that_cannot_be_started_make_requests_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with loader(MEDIA_CONCURRENCY=1) as media:
        # The worker that waits ends a little later than the fork server, and would take the item with it.
        gone = [fork_server(media), *workers(media)]
        os.kill(fork_server(media), signal.SIGKILL)
        await until(lambda: all(state(process) in ("", "Z") for process in gone))
        monkeypatch.setattr("vllm_custom.media.workers.forks.get_executable", lambda: b"/no/such/python")
        with pytest.raises(UnavailableError, match="no process that decodes media can be started"):
            await media.load(elements(SMALL))


async def test_what_ends_with_the_loop_is_no_error() -> None:
    """The log had a traceback for each descriptor that a thread was still to make."""
    loop = asyncio.get_running_loop()
    caught: list[object] = []
    loop.set_exception_handler(lambda _, context: caught.append(context))
    made: asyncio.Future[int] = loop.create_future()
    taken: list[int] = []
    waiting = asyncio.create_task(pool._kept(made, taken.append))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    made.cancel()
    await asyncio.sleep(0)
    assert (caught, taken) == ([], [])


def test_a_text_model_starts_no_process() -> None:
    from vllm_custom.contract.settings import Settings

    media = MediaLoader(Settings.from_model_config({"name": "model"}), {})
    assert media.start() == ""
    assert media._pool._forks._process is None
    media.close()


def group4(marked: int, side: int = 7000) -> bytes:
    image = Image.new("1", (side, side))
    image.putpixel((marked, 0), 1)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression="group4")
    return buffer.getvalue()


@pytest.mark.slow
async def test_thirty_small_files_that_become_gigabytes_are_refused_before_any_is_decoded() -> None:
    """Each is 2 KB and allowed by itself."""
    records: list[Record] = []
    with loader(records.append) as media:
        with pytest.raises(MediaLimitError, match=r"MEDIA_REQUEST_BYTES of this model\), got 5880000000") as error:
            await media.load(elements(*(group4(index) for index in range(30))))
        assert str(error.value).startswith("media: expected at most 1073741824 decoded bytes")
        assert records == [LimitRecord("request_bytes")]


async def test_what_is_in_the_cache_does_not_count_for_the_request() -> None:
    images = [encode(Image.new("RGB", (100, 100), colour)) for colour in ("red", "green", "blue")]
    with loader(MEDIA_REQUEST_BYTES=80_000) as media:
        with pytest.raises(MediaLimitError, match="MEDIA_REQUEST_BYTES"):
            await media.load(elements(*images))
        await media.load(elements(*images[:2]))
        assert len(await media.load(elements(*images))) == 3
        assert len(await media.load(elements(*images[:1] * 20))) == 20, "the same file is decoded once"


async def test_requests_wait_for_each_others_bytes_and_none_is_refused() -> None:
    with loader(MEDIA_REQUEST_BYTES=40_000, MEDIA_INFLIGHT_BYTES=80_000, MEDIA_CACHE_BYTES=0) as media:
        sent = [elements(encode(Image.new("RGB", (100, 100), (index, 0, 0)))) for index in range(5)]
        first, second = await media.load(sent[0]), await media.load(sent[1])
        waiting: list[asyncio.Task[LoadedMedia]] = []
        for one in sent[2:]:
            waiting.append(asyncio.create_task(media.load(one)))
            await until(lambda: len(media._budget._waiting) == len(waiting))
        waiting[0].cancel()
        first.release()
        third = await asyncio.wait_for(waiting[1], 60)
        assert not waiting[2].done()
        first.release()  # a second time changes nothing
        second.release()
        with third, await asyncio.wait_for(waiting[2], 60):
            assert media._budget.used == 80_000
        assert media._budget.used == 0


def test_a_request_that_could_wait_for_ever_is_refused_at_load() -> None:
    with (
        pytest.raises(ConfigError, match=r"MEDIA_INFLIGHT_BYTES: expected at least MEDIA_REQUEST_BYTES \(1073741824\)"),
        loader(MEDIA_INFLIGHT_BYTES=1000),
    ):
        pass
