"""Stored responses behind a frontend of two tritonservers: each keeps its own, and the frontend finds who does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support import null_engine
from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.null_engine import Records
from tests.support.servers import NULL_BASE, Loads, Repository, parameter, serving, wait_until
from tools.installer.server import TritonServer

pytestmark = pytest.mark.timeout(300)

MODEL, RESPONSES = "null_storing", "/v1/responses"
# In turns between two servers, so that both have some.
COUNT = 6
CONFIG = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
ASKED: dict[str, Any] = {"model": MODEL, "input": "Hello", "max_output_tokens": 4}
LONG: dict[str, Any] = ASKED | {"max_output_tokens": 4000, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module", autouse=True)
def model(repository: Repository, load: Loads) -> None:
    repository.add(MODEL, CONFIG + parameter("OPENAI_STORED_RESPONSES", 20), repository.shapes_args())
    load(MODEL)


@pytest.fixture(scope="module")
def second(model: None, repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("second")
    records = Records(folder / "requests.jsonl")
    env = null_engine.environment(os.environ.get("VLLM_BACKEND_DIR"), folder / "backends", records)
    with serving(repository, folder, env=env, more=(NULL_BASE,), models=[MODEL]) as server:
        yield server


@pytest.fixture(scope="module")
def frontend(
    triton: TritonServer, second: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Frontend]:
    servers = [f"--triton={server.grpc_url}" for server in (triton, second)]
    with Frontend(tmp_path_factory.mktemp("frontend") / "log", *servers) as made:
        wait_until(lambda: made.get(f"/ready/{MODEL}").status == 200)
        yield made


@pytest.fixture
def library(frontend: Frontend) -> openai.OpenAI:
    return openai.OpenAI(base_url=frontend.base_url, api_key="none", max_retries=0)


def served(server: TritonServer) -> float:
    found = Client(server.http_url, server.metrics_url).metrics()
    return found.get(f'nv_inference_request_success{{model="{MODEL}",version="1"}}', 0)


def created(library: openai.OpenAI, servers: tuple[TritonServer, ...]) -> list[Any]:
    """Responses of which each server has made some."""
    before = [served(server) for server in servers]
    made = [library.responses.create(**ASKED) for _ in range(COUNT)]
    assert all(served(server) > count for server, count in zip(servers, before, strict=True))
    return made


def test_responses_are_found_and_continued_wherever_they_are(
    library: openai.OpenAI, triton: TritonServer, second: TritonServer
) -> None:
    made = created(library, (triton, second))
    assert [library.responses.retrieve(one.id).output_text for one in made] == [one.output_text for one in made]
    for one in made:
        assert library.responses.create(**ASKED, previous_response_id=one.id).previous_response_id == one.id


def test_background_responses_are_cancelled_wherever_they_run(library: openai.OpenAI) -> None:
    begun = [library.responses.create(**LONG, background=True) for _ in range(COUNT)]
    assert [library.responses.cancel(one.id).status for one in begun] == ["cancelled"] * COUNT
    assert [library.responses.retrieve(one.id).status for one in begun] == ["cancelled"] * COUNT


def test_what_neither_has_is_not_found(frontend: Frontend) -> None:
    assert frontend.get(f"{RESPONSES}/resp_nothing").status == 404


def test_a_server_that_is_gone_may_have_had_it(
    frontend: Frontend, library: openai.OpenAI, triton: TritonServer, second: TritonServer
) -> None:
    """404 would say that the response is lost, which nobody knows."""
    made = created(library, (triton, second))
    second.stop()
    answers = [frontend.get(f"{RESPONSES}/{one.id}") for one in made]
    assert {answer.status for answer in answers} == {200, 503}
    assert {
        "may have this response" in answer.json["error"]["message"] for answer in answers if answer.status != 200
    } == {True}
