"""Fixtures: one tritonserver, into which each module loads the model that it needs, one engine at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Answer, Client
from tools.installer import backends, environment
from tools.installer.load_guard import LoadGuard
from tools.installer.paths import DEFAULT_REPOSITORY
from tools.installer.server import TritonServer

SHAPES_VL = DEFAULT_REPOSITORY / "shapes_vl"


class Repository:
    """A model repository in a temporary folder, to which tests add models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, config: str, engine_args: dict[str, Any] | str | None, **files: str) -> None:
        """A model with one version; ``engine_args`` is model.json's content, as JSON, as text, or absent."""
        version = self.folder / name / "1"
        version.mkdir(parents=True)
        (self.folder / name / "config.pbtxt").write_text(config)
        if engine_args is not None:
            text = engine_args if isinstance(engine_args, str) else json.dumps(engine_args)
            (version / "model.json").write_text(text)
        for file_name, content in files.items():
            (version / file_name.replace("__", ".")).write_text(content)

    def shapes_args(self, **changes: Any) -> dict[str, Any]:
        """model.json of shapes_vl with an absolute path, so that it serves from another folder."""
        arguments = json.loads((SHAPES_VL / "1/model.json").read_text())
        plain = {key: value for key, value in arguments.items() if "lora" not in key}
        return plain | {"model": str(SHAPES_VL / "1" / arguments["model"])} | changes


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "shapes_vl").symlink_to(SHAPES_VL)
    return Repository(folder)


@contextmanager
def serving(repository: Repository, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[TritonServer]:
    """A server with no model loaded; models are loaded by name. It has to end well."""
    found = environment.current()
    server = TritonServer(
        repository.folder,
        environment=found,
        backends=backends.assemble(found, folder / "backends"),
        models=[],
        log=folder / "server.log",
        extra=["--model-control-mode=explicit"],
        env=env,
    )
    with server:
        yield server
        left = server.stop()
    assert "Segfault" not in server.log_text()
    assert left == [], f"processes that had to be ended after tritonserver's own stop: {left}"


@pytest.fixture(scope="session")
def triton(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The server that all modules share."""
    with serving(repository, tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture(scope="session")
def client(triton: TritonServer) -> Client:
    return Client(triton.http_url, triton.metrics_url)


def guarded_load(triton: TritonServer, client: Client, name: str) -> tuple[Answer, bool]:
    """What Triton answers, and whether the load hung and had to be ended."""
    with LoadGuard(triton.pid) as guard:
        return client.load(name), bool(guard.ended)


@pytest.fixture(scope="module")
def load(client: Client, triton: TritonServer) -> Iterator[Callable[[str], None]]:
    """Load a model for the rest of the module; it is unloaded at the module's end."""
    loaded: list[str] = []

    def load_model(name: str) -> None:
        answer, hung = guarded_load(triton, client, name)
        if hung:
            print(f"the load of {name} hung and was ended; loading again")
            answer, _ = guarded_load(triton, client, name)
        assert answer.status == 200, answer.body
        loaded.append(name)

    yield load_model
    for name in loaded:
        client.unload(name)
        wait_until(lambda name=name: not client.is_ready(name))


@pytest.fixture(scope="module")
def shapes_vl(load: Callable[[str], None]) -> str:
    """The model as it stands in model_repository/, loaded."""
    load("shapes_vl")
    return "shapes_vl"


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until ``condition`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.05)


def is_idle(client: Client, counter: str) -> bool:
    """Whether ``counter`` (of generated tokens) stands still for a second."""
    before = client.metrics().get(counter, 0)
    time.sleep(1)
    return client.metrics().get(counter, 0) == before
