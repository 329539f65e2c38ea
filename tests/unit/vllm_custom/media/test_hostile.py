"""Small or long inputs that once kept everybody waiting: each is refused at once, and the event loop has its turns."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_custom.contract.settings import Settings
from vllm_custom.errors import BackendError, InvalidRequestError
from vllm_custom.media.elements import MediaElement
from vllm_custom.media.loader import MediaLoader
from vllm_custom.media.sources.fetch import Fetcher, FetchLimits
from vllm_custom.media.sources.policy import MediaPolicy
from vllm_custom.runtime.async_utils import time_limit

MIB = 1 << 20
# What took four seconds to minutes, in all of which nothing else ran; 30 times of what they take now.
LONGEST_GAP_SECONDS = 3.0

# Made when it is needed: together they are 800 MiB.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "URL with a line break after a #": lambda: b"http://" + b"a" * 200_000 + b"#\nx",
    "URL that is one long host": lambda: b"http://" + b"a" * 7_000 + b"/",
    "URL that is one long host beyond ASCII": lambda: b"http://" + "ä".encode() * 2_500 + b"/",
    "URL of 120 MiB": lambda: b"http://media.test/" + b"a" * (120 * MIB),
    "data: without a comma": lambda: b"data:" + b";" * (120 * MIB),
    "data: with a comma that comes late": lambda: b"data:" + b";" * (120 * MIB) + b",aGk=",
    "file: of a million steps": lambda: b"file:///media/" + b"a/" * 1_000_000,
    "file: of escapes": lambda: b"file:///media/" + b"%61%2f" * 1_000_000,
    "blanks": lambda: b" " * (120 * MIB),
    "base64 with line breaks": lambda: base64.encodebytes(bytes(60 * MIB)),
    "base64 of nothing but padding": lambda: b"=" * (120 * MIB),
    "base64 that is none at its end": lambda: b"A" * (100 * MIB) + b"\n!",
}


async def gaps(load: asyncio.Task[object]) -> float:
    """The longest time for which nothing else ran until ``load`` was over."""
    times = [time.perf_counter()]
    while not load.done():
        await asyncio.sleep(0.001)
        times.append(time.perf_counter())
    return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_hostile_is_refused_and_holds_nobody_up(name: str, tmp_path: Path) -> None:
    parameters = {"ALLOWED_MEDIA_DOMAINS": "media.test", "ALLOWED_LOCAL_MEDIA_PATH": str(tmp_path)}
    given = {key: {"string_value": value} for key, value in parameters.items()}
    media = MediaLoader(Settings.from_model_config({"name": "model", "parameters": given}), {"image": 1})
    task = asyncio.ensure_future(media.load([MediaElement("image", "image[0]", HOSTILE[name]())]))
    longest = await gaps(task)  # type: ignore[arg-type]
    error = task.exception()
    media.close()
    assert isinstance(error, InvalidRequestError)
    assert str(error).startswith("image[0]: ")
    assert len(str(error)) < 400
    assert longest < LONGEST_GAP_SECONDS


def test_elements_that_are_too_long_are_refused_by_their_length() -> None:
    from vllm_custom.media.sources.reference import encoded_bytes

    with pytest.raises(
        BackendError, match=r"image\[0\]: expected at most 1000 bytes \(MEDIA_MAX_BYTES of this model\), got 3000000"
    ):
        encoded_bytes(b"A" * 3_000_000, "image[0]", 1000)


async def test_a_request_that_is_cancelled_as_its_answer_comes_is_cancelled() -> None:
    """asyncio.wait_for of Python 3.11 gives the result to a task that was cancelled."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask() -> str:
        async with time_limit(60):
            return await answer

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    answer.set_result("too late")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_fetches_end_when_they_are_cancelled_as_the_body_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = Fetcher(MediaPolicy(), FetchLimits(100, 60, 1))
    came: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def follow(*_: object) -> object:
        return await came

    monkeypatch.setattr(fetcher, "_follow", follow)
    from vllm_custom.media.sources.policy import Target

    task = asyncio.create_task(fetcher.fetch(None, Target("http", "media.test", 80, "/"), "image[0]"))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    came.set_result(b"")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fetcher.close()
