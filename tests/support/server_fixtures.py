"""Fixtures of the tests with a tritonserver; the folder's conftest.py says which server it is (`triton`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.client import Client
from tests.support.servers import EXAMPLES, Loads, Repository
from tools.installer.server import TritonServer


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("repository")
    for example in EXAMPLES:
        (folder / example.name).symlink_to(example)
    return Repository(folder)


@pytest.fixture(scope="session")
def client(triton: TritonServer) -> Client:
    return Client(triton.http_url, triton.metrics_url)


@pytest.fixture(scope="module")
def load(client: Client, triton: TritonServer) -> Iterator[Loads]:
    """Loads a model for the rest of the module; it is unloaded at the module's end."""
    made = Loads(triton, client)
    yield made
    made.unload_all()
