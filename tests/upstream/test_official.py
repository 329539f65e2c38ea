"""vllm_custom on the official backend's own sources, from the folder that VLLM_BACKEND_DIR names."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.client import Client
from tests.shapes import picture
from tools.installer import backends, environment
from tools.installer.paths import DEFAULT_REPOSITORY
from tools.installer.server import TritonServer

OFFICIAL = os.environ.get("VLLM_BACKEND_DIR", "")

pytestmark = [
    pytest.mark.server,
    pytest.mark.engine,
    pytest.mark.skipif(
        not OFFICIAL,
        reason="NOT RUN: set VLLM_BACKEND_DIR to the official backend's folder with model.py to test on it",
    ),
]

MODEL = "shapes_vl"
PICTURE = picture(26_001, count=2)
REQUEST = {
    "text_input": "Describe the image.",
    "image": [base64.b64encode(PICTURE.encoded()).decode()],
    "temperature": 0,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("official")
    found = environment.current()
    running = TritonServer(
        DEFAULT_REPOSITORY,
        environment=found,
        backends=backends.assemble(found, folder / "backends"),
        models=[MODEL],
        log=folder / "server.log",
        env={"VLLM_BACKEND_DIR": str(Path(OFFICIAL).resolve())},
    )
    with running:
        yield running


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Client:
    return Client(server.http_url, server.metrics_url)


def test_it_is_the_base_and_the_log_says_so(server: TritonServer) -> None:
    assert "base: official" in server.log_text()


def test_generate(client: Client) -> None:
    assert client.generate(MODEL, **REQUEST).text == PICTURE.answer()


def test_stream(client: Client) -> None:
    assert "".join(event["text_output"] for event in client.stream(MODEL, **REQUEST)) == PICTURE.answer()


def test_adapter(client: Client) -> None:
    assert client.generate(MODEL, lora_name="zh", **REQUEST).text == PICTURE.answer("zh")


def test_errors_are_ours(client: Client) -> None:
    answer = client.generate(MODEL, **REQUEST | {"temperature": -1})
    assert answer.status == 400
    assert "temperature" in answer.error


def test_metrics(client: Client) -> None:
    assert any(name.startswith("vllm:generation_tokens_total") for name in client.metrics())
