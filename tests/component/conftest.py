"""A tritonserver whose models build on the null engine, and what that engine was given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import null_engine
from tests.support import null_model as null_model_files
from tests.support.client import Client
from tests.support.media_files import Files, HeldMedia
from tests.support.null_engine import Records
from tests.support.server_fixtures import client, load, repository
from tests.support.servers import NULL_BASE, Loads, Repository, serving
from tools.installer.server import TritonServer

__all__ = ["client", "load", "repository"]


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records(tmp_path_factory.mktemp("records") / "requests.jsonl")


@pytest.fixture(scope="session")
def triton(
    repository: Repository, records: Records, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """The server that all modules share."""
    folder = tmp_path_factory.mktemp("triton")
    env = null_engine.environment(os.environ.get("VLLM_BACKEND_DIR"), folder / "backends", records)
    with serving(repository, folder, env=env, more=(NULL_BASE,)) as server:
        yield server


@pytest.fixture(scope="session")
def files() -> Iterator[Files]:
    """Where the shared model may fetch media."""
    made = Files("127.0.0.1")
    yield made
    made.close()


@pytest.fixture(scope="session")
def held_media() -> Iterator[HeldMedia]:
    """Where it may fetch as well, and waits."""
    made = HeldMedia()
    yield made
    made.close()


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose files the shared model may read."""
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def null_model(
    repository: Repository,
    triton: TritonServer,
    client: Client,
    files: Files,
    held_media: HeldMedia,
    media_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The decoupled model that most modules share, loaded until the end."""
    folder = tmp_path_factory.mktemp("generation_config")
    ports = (files.port, held_media.port)
    null_model_files.add(repository, folder, media_ports=ports, media_folder=media_folder)
    Loads(triton, client)(null_model_files.MODEL)
    return null_model_files.MODEL
