"""A tritonserver with vLLM's own engine, on the stand-in or on the backend that VLLM_BACKEND_DIR names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import one_process, openai_cases
from tests.support import superset as superset_model
from tests.support.client import Client
from tests.support.frontend_process import Frontend
from tests.support.media_files import Files
from tests.support.scheduling import shared_by
from tests.support.server_fixtures import client, load, repository
from tests.support.servers import Loads, Repository, serving
from tests.support.trace_collector import ENVIRONMENT as SPANS
from tests.support.trace_collector import Collector
from tests.support.vllm_serve import vllm_serve
from tests.support.vllm_serve_cases import ServeAnswers
from tools.installer.server import TritonServer

__all__ = ["client", "load", "repository"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The shared model's tests take longest together, and go first where several processes share the tests."""
    items.sort(key=lambda item: shared_by(item.path) != "superset")


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="session")
def triton(
    repository: Repository, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """The server that all modules share. It traces the models for which that is switched on."""
    settings = ("mode=opentelemetry", f"opentelemetry,url={collector.url}", "level=OFF")
    env = {**SPANS, **one_process.ENVIRONMENT}
    extra = [f"--trace-config={setting}" for setting in settings]
    with serving(repository, tmp_path_factory.mktemp("triton"), env=env, extra=extra) as server:
        yield server


@pytest.fixture(scope="session")
def files() -> Iterator[Files]:
    """Where the shared model may fetch media."""
    made = Files("127.0.0.1")
    made.add(openai_cases.PICTURES)
    yield made
    made.close()


@pytest.fixture(scope="session")
def engine_args(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the shared model and of vLLM's own server."""
    return superset_model.engine_args(repository, tmp_path_factory.mktemp("generation_config"))


@pytest.fixture(scope="session")
def serve_answers(engine_args: dict[str, Any], files: Files, tmp_path_factory: pytest.TempPathFactory) -> ServeAnswers:
    """It is ended when all has been asked."""
    log = tmp_path_factory.mktemp("vllm_serve") / "log"
    with vllm_serve(log, *superset_model.serve_arguments(engine_args)) as server:
        return ServeAnswers.of(server, files.url)


@pytest.fixture(scope="session")
def superset_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder whose files the shared model may read."""
    return tmp_path_factory.mktemp("superset_media")


@pytest.fixture(scope="session")
def superset(
    repository: Repository,
    client: Client,
    triton: TritonServer,
    engine_args: dict[str, Any],
    files: Files,
    collector: Collector,
    superset_media: Path,
) -> str:
    """The model that most tests share, loaded until the end."""
    traced = engine_args | {"otlp_traces_endpoint": collector.url}
    superset_model.add(repository, traced, files_port=files.port, media_folder=superset_media)
    Loads(triton, client)(openai_cases.MODEL)
    return openai_cases.MODEL


@pytest.fixture(scope="session")
def frontend(
    triton: TritonServer, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Frontend]:
    """The OpenAI frontend in front of the server."""
    options = f"--triton={triton.grpc_url}", f"--otlp-traces-endpoint={collector.url}"
    with Frontend(tmp_path_factory.mktemp("frontend") / "log", *options, env=SPANS) as made:
        yield made
