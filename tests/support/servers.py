"""A tritonserver for tests, its model repository, and loads that are watched."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.client import Answer, Client
from tools.installer import backends, environment
from tools.installer.load_guard import LoadGuard
from tools.installer.paths import CHECKOUT, DEFAULT_REPOSITORY
from tools.installer.server import TritonServer

SHAPES_VL = DEFAULT_REPOSITORY / "shapes_vl"
# What can be served of model_repository: the others need weights.
EXAMPLES = [path for path in sorted(DEFAULT_REPOSITORY.iterdir()) if not path.name.startswith("qwen")]
# The adapters of shapes_vl: one answers in Chinese, the other in capitals.
ADAPTERS = {name: str(SHAPES_VL / "1/lora" / name) for name in ("zh", "caps")}
# How many front processes the models have that most tests share: the same tests hold for one and for several.
FRONTS = int(os.environ.get("VLLM_CUSTOM_TEST_INSTANCES", "1"))
SHARED_MODEL = f'backend: "vllm_custom"\ninstance_group [ {{ count: {FRONTS}, kind: KIND_MODEL }} ]\n'
NULL_BASE = CHECKOUT / "benchmarks/backends/null_base"


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


def parameter(key: str, value: object) -> str:
    """A line of config.pbtxt."""
    text = str(value).replace('"', '\\"')
    return f'parameters {{ key: "{key}" value: {{ string_value: "{text}" }} }}\n'


@contextmanager
def serving(
    repository: Repository,
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    more: tuple[Path, ...] = (),
    **options: Any,
) -> Iterator[TritonServer]:
    """A server into which models are loaded by name; it has to end well.

    Args:
        repository: its models.
        folder: gets its backends and its log.
        env: further environment variables.
        more: folders of backends beside those of this checkout.
        options: of TritonServer.
    """
    found = environment.current()
    made = backends.assemble(found, folder / "backends")
    for backend in more:
        backends.copy_linked(backend, made / backend.name)
    options = {"models": []} | options
    server = TritonServer(
        repository.folder, environment=found, backends=made, log=folder / "server.log", env=env, **options
    )
    with server:
        yield server
        left = server.stop()
    assert "Segfault" not in server.log_text()
    assert left == [], f"processes that had to be ended after tritonserver's own stop: {left}"


class Loads:
    """Loads models into a server; one that hangs is ended and loaded again, once."""

    def __init__(self, triton: TritonServer, client: Client) -> None:
        self._triton = triton
        self._client = client
        self.loaded: set[str] = set()

    def __call__(self, name: str) -> None:
        """The model is ready, or the test fails. An ensemble brings its models along."""
        before = self._client.ready_models()
        answer, hung = self._load(name)
        if hung:
            print(f"the load of {name} hung and was ended; loading again")
            answer, _ = self._load(name)
        assert answer.status == 200, answer.body
        self.loaded |= {name} | self._client.ready_models() - before

    def unload(self, name: str) -> None:
        """The model is gone when this returns."""
        self._client.unload(name)
        wait_until(lambda: not self._client.is_ready(name))
        self.loaded.discard(name)

    def unload_all(self) -> None:
        for name in list(self.loaded):
            self.unload(name)

    def _load(self, name: str) -> tuple[Answer, bool]:
        with LoadGuard(self._triton.pid) as guard:
            return self._client.load(name), bool(guard.ended)


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
