"""Media by URL and from a folder, through tritonserver: what config.pbtxt allows is fetched, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.media_files import Files
from tests.support.null_engine import Records
from tests.support.null_model import MODEL
from tests.support.servers import FRONTS, wait_until
from tests.support.shapes import Picture, picture
from tools.installer.server import TritonServer

pytestmark = pytest.mark.usefixtures("null_model")

DESCRIBE = "Describe the image."
DESCRIBE_EACH = "Describe each image."
LONG = {"text_input": "2+3=", "ignore_eos": True, "max_tokens": 6000}


@pytest.fixture
def forbidden(files: Files) -> Iterator[Files]:
    """On another address and the same port, with an image that nobody may have; it was never asked."""
    made = Files("127.0.0.2", files.port)
    made.add([PICTURE])
    yield made
    made.close()
    assert made.hits == 0


PICTURE = picture(20_001, (224, 224), count=2)


def singles(seed: int, count: int, side: int = 224) -> list[Picture]:
    return [picture(seed + index, (side, side), count=1) for index in range(count)]


def test_url_base64_data_uri_and_file_are_the_same_media_and_keep_their_order(
    client: Client, files: Files, media_folder: Path, records: Records
) -> None:
    pictures = singles(20_100, 4)
    files.add(pictures)
    (media_folder / "two.png").write_bytes(pictures[2].encoded())
    images = [
        f"{files.url}/0.png",
        b64(pictures[1].encoded()),
        (media_folder / "two.png").as_uri(),
        f"data:image/png;base64,{b64(pictures[3].encoded())}",
    ]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (images[0], images[3])]
    messages = json.dumps([{"role": "user", "content": [*parts, {"type": "text", "text": DESCRIBE_EACH}]}])
    bodies = {
        "mixed": {"text_input": DESCRIBE_EACH, "image": images},
        "turned": {"text_input": DESCRIBE_EACH, "image": images[::-1]},
        "base64": {"text_input": DESCRIBE_EACH, "image": [b64(item.encoded()) for item in pictures]},
        "messages": {"messages": messages},
    }
    for name, body in bodies.items():
        answer = client.generate(MODEL, id=name, max_tokens=2, **body)
        assert answer.status == 200, answer.body
    mixed, turned, base64, by_messages = (records.begun(name)["media"] for name in bodies)
    assert len({identifier for _, identifier in mixed}) == 4
    assert base64 == mixed
    assert turned == mixed[::-1]
    assert by_messages == [mixed[0], mixed[3]]


def test_thirty_urls_are_fetched(client: Client, files: Files, records: Records) -> None:
    pictures = singles(20_200, 30, side=112)
    before = files.hits
    answer = client.generate(MODEL, id="thirty", text_input=DESCRIBE_EACH, image=files.add(pictures), max_tokens=2)
    assert (answer.status, files.hits - before) == (200, 30), answer.body
    assert records.begun("thirty")["prompt_tokens"] >= 30 * 16  # 112 x 112 pixels are 16 tokens


def test_thirty_one_urls_are_refused_before_any_is_fetched(client: Client, files: Files) -> None:
    before = files.hits
    answer = client.generate(MODEL, text_input=DESCRIBE_EACH, image=[f"{files.url}/0.png"] * 31)
    assert (answer.status, files.hits) == (400, before)
    assert "at most 30" in answer.error


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.2:{port}/0.png?token=secret", "ALLOWED_MEDIA_DOMAINS"),
        ("http://2130706434:{port}/0.png", "ALLOWED_MEDIA_DOMAINS"),
        ("http://[::ffff:127.0.0.2]:{port}/0.png", "ALLOWED_MEDIA_DOMAINS"),
        ("http://127.0.0.1:1/0.png", "a port"),
        ("http://user:secret@127.0.0.1:{port}/0.png", "credentials"),
        ("http://127.0.0.1:{port}/to/other", "redirects to a URL that names a host"),
        ("http://127.0.0.1:{port}/missing.png?token=secret", "HTTP status 404"),
        ("ftp://127.0.0.1:{port}/0.png", "not allowed"),
        ("file:///etc/hostname", "ALLOWED_LOCAL_MEDIA_PATH"),
        ("file://{folder}/../0.png", "ALLOWED_LOCAL_MEDIA_PATH"),
    ],
)
def test_what_is_not_allowed_is_refused_and_nobody_is_asked(
    client: Client, files: Files, forbidden: Files, media_folder: Path, url: str, told: str
) -> None:
    files.locations["/to/other"] = f"{forbidden.url}/0.png"
    files.add([PICTURE])
    images = [f"{files.url}/0.png", url.format(port=files.port, folder=media_folder)]
    answer = client.generate(MODEL, text_input=DESCRIBE_EACH, image=images)
    assert answer.status == 400, answer.body
    assert answer.error.count("image[1]: ") == 1
    assert told in answer.error
    assert not any(secret in answer.error for secret in ("secret", "127.0.0", "/etc", str(media_folder)))


def test_a_text_stream_goes_on_while_twenty_downloads_are_slow(client: Client, files: Files) -> None:
    # The limit on downloads at a time is the model's: several front processes share it.
    count = 20 // FRONTS
    pictures = singles(20_300, count, side=112)
    slow = [url.replace("/slow", "/slow/slow") for url in files.add(pictures, "slow")]
    body = {"text_input": DESCRIBE_EACH, "image": slow, "max_tokens": 8}
    responses = 0

    def read() -> None:
        # In blocks: parsing each event would keep this process's own HTTP server from its turn.
        nonlocal responses
        with client.open_blocks(MODEL, **LONG) as blocks:
            for block in blocks:
                responses += block.count(b"data: ")
                if files.go_on.is_set():
                    return

    before = files.hits
    with ThreadPoolExecutor(2) as pool:
        reader = pool.submit(read)
        try:
            wait_until(lambda: responses > 0)
            asked = pool.submit(client.generate, MODEL, **body)
            wait_until(lambda: files.hits - before == count)  # all at the same time: none is answered yet
            seen = responses
            wait_until(lambda: responses >= seen + 100)
        finally:
            files.go_on.set()
        assert asked.result().status == 200, asked.result().body
        reader.result()


def sample(client: Client, name: str, **labels: str) -> float:
    told = ",".join(f'{key}="{value}"' for key, value in sorted({"model": MODEL, "version": "1", **labels}.items()))
    return client.metrics().get(f"vllm_custom:{name}{{{told}}}", 0)


def test_fetches_are_counted(client: Client, files: Files) -> None:
    names = [("media_fetches_total", {"result": "fetched"}), ("media_refusals_total", {"rule": "host"})]
    before = [sample(client, name, **labels) for name, labels in names]
    (url,) = files.add([PICTURE])
    size = len(files.files["/0.png"])
    sent = sample(client, "media_fetched_bytes_total")
    assert client.generate(MODEL, text_input=DESCRIBE, image=[url], max_tokens=2).status == 200
    assert client.generate(MODEL, text_input=DESCRIBE, image=["http://evil.example/"]).status == 400
    wait_until(
        lambda: [sample(client, name, **labels) for name, labels in names] == [count + 1 for count in before], 10
    )
    assert sample(client, "media_fetched_bytes_total") == sent + size
    assert sample(client, "media_fetch_seconds_sum") > 0


@pytest.mark.skipif(FRONTS > 1, reason="not run: each of several front processes has a cache of its own")
def test_an_image_that_comes_again_is_not_decoded_again(client: Client, files: Files) -> None:
    fresh = picture(20_950, (224, 224), count=2)
    (url,) = files.add([fresh], "again")
    results = ("miss", "hit", "shared")
    before = {name: sample(client, "media_cache_lookups_total", result=name) for name in results}
    decoded = sample(client, "media_decode_seconds_count", modality="image")
    held = sample(client, "media_cache_bytes")
    for image in (url, b64(fresh.encoded()), url):
        assert client.generate(MODEL, text_input=DESCRIBE, image=[image], max_tokens=2).status == 200
    expected = {"miss": before["miss"] + 1, "hit": before["hit"] + 2, "shared": before["shared"]}
    wait_until(lambda: {name: sample(client, "media_cache_lookups_total", result=name) for name in results} == expected)
    assert sample(client, "media_decode_seconds_count", modality="image") == decoded + 1
    assert sample(client, "media_cache_bytes") == held + 224 * 224 * 4


def test_refusals_are_logged_without_what_is_secret(client: Client, triton: TritonServer) -> None:
    url = "http://refused.example/a.png?token=secret"
    assert client.generate(MODEL, text_input=DESCRIBE, image=[url]).status == 400
    line = "media refused by rule host: http://refused.example/a.png"
    wait_until(lambda: line in triton.log_text())
    assert "token=secret" not in triton.log_text()
