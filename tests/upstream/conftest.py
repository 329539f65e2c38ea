"""The server fixtures, on the vLLM backend in the folder that VLLM_BACKEND_DIR names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_fixtures import Repository, client, load, repository, serving, shapes_vl
from tools.installer.server import TritonServer

__all__ = ["client", "load", "repository", "shapes_vl"]


@pytest.fixture(scope="session")
def triton(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    base = str(Path(os.environ["VLLM_BACKEND_DIR"]).resolve())
    with serving(repository, tmp_path_factory.mktemp("upstream"), {"VLLM_BACKEND_DIR": base}) as server:
        yield server
