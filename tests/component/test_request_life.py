"""What becomes of requests whose client or whose time has gone before the engine has them, and what is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client
from tests.support.grpc_calls import Calls, calls
from tests.support.hostile_inputs import fax
from tests.support.media_files import HeldMedia
from tests.support.null_model import MAX_INFLIGHT, MODEL
from tests.support.servers import wait_until
from tools.installer.server import TritonServer

pytestmark = pytest.mark.usefixtures("null_model")

TIMEOUT_US = 500_000
SUCCESS = f'vllm_custom:requests_success_total{{model="{MODEL}",version="1"}}'
EVENT_SECONDS = 120
MODELS = json.dumps({"path": "/v1/models"})


@pytest.fixture
def begin(triton: TritonServer) -> Iterator[Calls]:
    """Starts a call; calls that a test leaves are cancelled."""
    with calls(triton, MODEL, max_tokens=6000, ignore_eos=True) as made:
        yield made


def failed(client: Client, code: str) -> float:
    """How many requests have failed with this code."""
    return client.metrics().get(f'vllm_custom:requests_failed_total{{code="{code}",model="{MODEL}",version="1"}}', 0)


class TestCancellation:
    @pytest.mark.parametrize("stream", [True, False])
    def test_of_a_request_whose_image_is_being_fetched(
        self, client: Client, begin: Calls, held_media: HeldMedia, stream: bool
    ) -> None:
        cancelled = failed(client, "CANCELLED")
        call = begin(f"fetches-{stream}", tensors={"stream": stream, "image": held_media.url})
        assert held_media.asked.wait(EVENT_SECONDS)
        assert not held_media.closed.is_set()
        call.cancel()
        assert held_media.closed.wait(EVENT_SECONDS), "the fetch goes on although nobody waits for the picture"
        wait_until(lambda: failed(client, "CANCELLED") == cancelled + 1)


class TestTimeout:
    def test_while_an_image_is_being_fetched(self, client: Client, held_media: HeldMedia) -> None:
        unavailable = failed(client, "UNAVAILABLE")
        answer = client.generate(
            MODEL, text_input="Describe the image.", image=[held_media.url], parameters={"timeout": TIMEOUT_US}
        )
        assert "timeout: the request did not finish within" in answer.error
        assert held_media.closed.wait(EVENT_SECONDS)
        wait_until(lambda: failed(client, "UNAVAILABLE") == unavailable + 1)


class TestMediaBesideText:
    def test_small_texts_do_not_wait_for_large_images(self, client: Client) -> None:
        """All places but one are taken by images of 49 megapixels, for whose decoding there are two processes."""
        images = [fax(7000, mark) for mark in range(MAX_INFLIGHT - 1)]
        described: list[int] = []

        def describe(image: str) -> None:
            answer = client.generate(MODEL, text_input="Describe the image.", image=[image], max_tokens=1)
            described.append(answer.status)

        with ThreadPoolExecutor(len(images)) as pool:
            jobs = [pool.submit(describe, image) for image in images]
            before_the_first_image = 0
            while not any(job.done() for job in jobs):
                assert client.generate(MODEL, text_input="2+3=", max_tokens=1).status == 200
                before_the_first_image += 1
            for job in jobs:
                job.result()
        assert described == [200] * len(images)
        assert before_the_first_image >= 5


class TestCounts:
    def test_successes_and_failures_by_code(self, client: Client) -> None:
        before = client.metrics().get(SUCCESS, 0)
        refused, absent, unsupported = (failed(client, code) for code in ("INVALID_ARG", "NOT_FOUND", "UNSUPPORTED"))
        for _ in range(3):
            assert client.generate(MODEL, text_input="2+3=", max_tokens=1).status == 200
        assert client.stream(MODEL, text_input="2+3=", max_tokens=2)
        client.generate(MODEL, text_input="2+3=", temperature=-1)
        client.stream(MODEL, text_input="2+3=", tempratur=1)
        client.generate(MODEL, text_input="2+3=", dimensions=8)
        for _ in range(3):  # as frontends do every few seconds
            assert MODEL in client.generate(MODEL, openai_request=MODELS).body["openai_response"]
        wait_until(lambda: client.metrics().get(SUCCESS, 0) == before + 4)
        wait_until(lambda: failed(client, "INVALID_ARG") == refused + 2)
        wait_until(lambda: failed(client, "UNSUPPORTED") == unsupported + 1)
        assert failed(client, "NOT_FOUND") == absent
