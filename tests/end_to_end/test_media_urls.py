"""Media by URL and from a folder, through tritonserver: what config.pbtxt allows is fetched, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.bodies import b64
from tests.support.client import Client
from tests.support.media_files import Files
from tests.support.server_fixtures import Repository, wait_until
from tests.support.shapes import Picture, answer_each, clip, gif, picture
from tools.installer.server import TritonServer

pytestmark = [pytest.mark.server, pytest.mark.engine]

MODEL = "by_url"
DESCRIBE = "Describe the image."
DESCRIBE_EACH = "Describe each image."
GREEDY = {"temperature": 0}
LONG = {"text_input": "2+3=", "temperature": 0, "ignore_eos": True, "max_tokens": 6000}

CONFIG = """
backend: "vllm_custom"
instance_group [ {{ count: 1, kind: KIND_MODEL }} ]
parameters {{ key: "ALLOWED_MEDIA_DOMAINS" value: {{ string_value: "127.0.0.1:{port}, localhost:{port}" }} }}
parameters {{ key: "ALLOWED_MEDIA_NETWORKS" value: {{ string_value: "127.0.0.1/32" }} }}
parameters {{ key: "ALLOWED_LOCAL_MEDIA_PATH" value: {{ string_value: "{folder}" }} }}
parameters {{ key: "REPORT_CUSTOM_METRICS" value: {{ string_value: "true" }} }}
parameters {{ key: "MEDIA_FETCH_TIMEOUT_SECONDS" value: {{ string_value: "60" }} }}
"""


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    made = Files("127.0.0.1")
    yield made
    made.close()


@pytest.fixture
def forbidden(files: Files) -> Iterator[Files]:
    """On another address and the same port, with a picture that nobody may have; it was never asked."""
    made = Files("127.0.0.2", files.port)
    made.add([PICTURE])
    yield made
    made.close()
    assert made.hits == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Callable[[str], None], files: Files, folder: Path) -> None:
    repository.add(MODEL, CONFIG.format(port=files.port, folder=folder), repository.shapes_args())
    load(MODEL)


PICTURE = picture(20_001, (224, 224), count=2)


def singles(seed: int, count: int, side: int = 224) -> list[Picture]:
    return [picture(seed + index, (side, side), count=1) for index in range(count)]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"])
def test_image_by_url(client: Client, files: Files, host: str) -> None:
    files.add([PICTURE])
    url = f"http://{host}:{files.port}/0.png?token=secret"
    answer = client.generate(MODEL, text_input=DESCRIBE, image=[url], **GREEDY)
    assert (answer.status, answer.body.get("text_output")) == (200, PICTURE.answer())


def test_clip_by_url(client: Client, files: Files) -> None:
    files.files["/clip.gif"] = gif(clip(20_400, "left"))
    answer = client.generate(MODEL, text_input="Which way does it move?", video=[files.url + "/clip.gif"], **GREEDY)
    assert (answer.status, answer.body.get("text_output")) == (200, "left")


def test_url_base64_data_uri_and_file_in_one_request_keep_their_order(
    client: Client, files: Files, folder: Path
) -> None:
    pictures = singles(20_100, 3) + singles(20_110, 1)
    files.add(pictures)
    (folder / "two.png").write_bytes(pictures[2].encoded())
    images = [
        f"{files.url}/0.png",
        b64(pictures[1].encoded()),
        (folder / "two.png").as_uri(),
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
    by_url = client.generate(MODEL, image=files.add(pictures), **body)
    assert files.hits - before == 30
    assert by_url.status == 200, by_url.body
    assert by_url.body["num_input_tokens"] >= 30 * 16
    assert by_url.text == client.generate(MODEL, image=[b64(item.encoded()) for item in pictures], **body).text


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
    client: Client, files: Files, forbidden: Files, folder: Path, url: str, told: str
) -> None:
    files.locations["/to/other"] = f"{forbidden.url}/0.png"
    files.add([PICTURE])
    images = [f"{files.url}/0.png", url.format(port=files.port, folder=folder)]
    answer = client.generate(MODEL, text_input=DESCRIBE_EACH, image=images)
    assert answer.status == 400, answer.body
    assert answer.error.count("image[1]: ") == 1
    assert told in answer.error
    assert not any(secret in answer.error for secret in ("secret", "127.0.0", "/etc", str(folder)))


def test_a_text_stream_goes_on_while_twenty_downloads_are_slow(client: Client, files: Files) -> None:
    pictures = singles(20_300, 20, side=112)
    slow = [url.replace("/slow", "/slow/slow") for url in files.add(pictures, "slow")]
    body = {"text_input": DESCRIBE_EACH, "image": slow, "max_tokens": 8, **GREEDY}
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
            wait_until(lambda: files.hits - before == 20)  # all at the same time: none is answered yet
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
    assert client.generate(MODEL, text_input=DESCRIBE, image=[url], **GREEDY).status == 200
    assert client.generate(MODEL, text_input=DESCRIBE, image=["http://evil.example/"]).status == 400
    wait_until(
        lambda: [sample(client, name, **labels) for name, labels in names] == [count + 1 for count in before], 10
    )
    assert sample(client, "media_fetched_bytes_total") == sent + size
    assert sample(client, "media_fetch_seconds_sum") > 0


def test_a_picture_that_comes_again_is_not_decoded_again(client: Client, files: Files) -> None:
    fresh = picture(20_950, (224, 224), count=2)
    (url,) = files.add([fresh], "again")
    results = ("miss", "hit", "shared")
    before = {name: sample(client, "media_cache_lookups_total", result=name) for name in results}
    decoded = sample(client, "media_decode_seconds_count", modality="image")
    held = sample(client, "media_cache_bytes")
    for image in (url, b64(fresh.encoded()), url):
        answer = client.generate(MODEL, text_input=DESCRIBE, image=[image], **GREEDY)
        assert (answer.status, answer.body.get("text_output")) == (200, fresh.answer())
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
