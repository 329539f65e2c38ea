"""Every example of README.md and docs/ is run against a real server, and prints what its page says.

The server is the one that the tests share: its ports and its folder of models are put in place of those on the page. A
command that would start a server is parsed instead, and a frontend is started and stopped.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import build
from tests.support import documented
from tests.support.client import Client
from tests.support.documented import Example
from tests.support.frontend_process import Frontend
from tests.support.servers import Loads, Repository, wait_until
from tools.installer import environment
from tools.installer.paths import CHECKOUT, FRONTEND_SOURCES
from tools.installer.server import TritonServer, child_environment

EXAMPLES = documented.examples(documented.pages())
MODELS = "../my_models"
OPENAI = "localhost:9000"
FRONTEND = "python -m vllm_custom_frontend --port "
TIMEOUT_SECONDS = 120


def makes_models(example: Example) -> bool:
    return f"mkdir -p {MODELS}" in example.code


def params() -> list[object]:
    marks = {one: [pytest.mark.skip(reason=f"not run: {one.not_run}")] if one.not_run else [] for one in EXAMPLES}
    return [pytest.param(example, marks=marks[example], id=str(example)) for example in EXAMPLES]


class Server:
    """The shared server as the pages see it."""

    def __init__(self, triton: TritonServer, client: Client, repository: Repository) -> None:
        self._triton = triton
        self._client = client
        self._repository = repository.folder
        # Each with the models that it brought along, as an ensemble does.
        self._loaded: dict[str, set[str]] = {}

    def run(self, example: Example, openai: str = OPENAI) -> subprocess.CompletedProcess[str]:
        code = self.put_in_place(example.code).replace(OPENAI, openai)
        found = environment.current()
        start = ["bash", "-euo", "pipefail"] if example.language == "bash" else [str(found.python)]
        return subprocess.run(
            [*start, "-c", code],
            cwd=CHECKOUT,
            env=child_environment(found, {"PYTHONPATH": str(FRONTEND_SOURCES)}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def put_in_place(self, code: str) -> str:
        places = {
            "localhost:8000": urlsplit(self._triton.http_url).netloc,
            "localhost:8001": self._triton.grpc_url,
            "127.0.0.1:8001": self._triton.grpc_url,
            "localhost:8002": urlsplit(self._triton.metrics_url).netloc,
            MODELS: str(self._repository),
        }
        for said, real in places.items():
            code = code.replace(said, real)
        return code

    def serve(self, code: str) -> None:
        """Load what the code names. Other models are unloaded where that is not loaded yet."""
        here = {path.name for path in self._repository.iterdir()}
        said = set(re.findall(r"--load-model=(\w+)", code))
        wanted = {name for name in here if name in said or f"models/{name}/" in code or f'"{name}"' in code}
        if wanted <= self._loaded.keys():
            return
        self.unload(self._loaded.keys() - wanted)
        for name in sorted(wanted - self._loaded.keys()):
            before = self._client.ready_models()
            Loads(self._triton, self._client)(name)
            self._loaded[name] = self._client.ready_models() - before - {name}

    def unload(self, names: set[str]) -> None:
        for name in [each for loaded in names for each in (loaded, *self._loaded.pop(loaded))]:
            self._client.unload(name)
            wait_until(lambda name=name: not self._client.is_ready(name))

    def stop(self) -> None:
        self.unload(set(self._loaded))


@pytest.fixture(scope="module")
def server(triton: TritonServer, client: Client, repository: Repository) -> Iterator[Server]:
    shared = Server(triton, client, repository)
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def made(server: Server) -> dict[Example, subprocess.CompletedProcess[str]]:
    """The folders of models that the pages make, whichever page is tested."""
    return {example: server.run(example) for example in EXAMPLES if makes_models(example)}


def code_until(example: Example) -> str:
    """What a reader has run on this page, the example included."""
    page = [one for one in EXAMPLES if one.page == example.page and not one.not_run]
    return "".join(one.code for one in page[: page.index(example) + 1])


def starts_server(example: Example) -> bool:
    return all(line.startswith("python3 build.py serve") for line in example.code.splitlines())


@pytest.mark.parametrize("example", params())
def test_the_example_prints_what_the_page_says(
    example: Example,
    server: Server,
    made: dict[Example, subprocess.CompletedProcess[str]],
    triton: TritonServer,
    tmp_path: Path,
) -> None:
    if starts_server(example):
        for line in example.code.splitlines():
            # What follows -- is tritonserver's.
            ours = itertools.takewhile(lambda word: word != "--", shlex.split(line)[2:])
            assert build.parser().parse_args(list(ours)).command == "serve"
        return
    if example.code.startswith(FRONTEND):
        # The port is that of the test.
        _, *arguments = shlex.split(server.put_in_place(example.code).removeprefix(FRONTEND))
        with Frontend(tmp_path / "log", *arguments):
            return
    if example in made:
        result = made[example]
    else:
        server.serve(code_until(example))
        result = with_frontend(example, server, triton, tmp_path / "log")
    assert result.returncode == example.fails, result.stdout + result.stderr
    if example.output is None:
        # curl is content with an answer that is an error.
        assert '"error":' not in result.stdout
    else:
        assert documented.prints(example.output, result.stdout), result.stdout


def with_frontend(
    example: Example, server: Server, triton: TritonServer, log: Path
) -> subprocess.CompletedProcess[str]:
    if OPENAI not in example.code:
        return server.run(example)
    with Frontend(log, f"--triton={triton.grpc_url}") as frontend:
        return server.run(example, f"localhost:{frontend.port}")
