"""Whether the server lives, and whether models can be used: what load balancers and Kubernetes ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.frontend_process import HttpApi
from tests.support.processes import wait_until
from tests.support.triton_servers import QUICK, FakeTriton, FrontendClient, Model, frontend, reply, serving, until
from tools.installer import ports

# Nothing is looked at unless somebody asks.
IDLE = replace(QUICK, idle_interval=3600, idle_after=0)
DOWN = reply(503, retry_after="90", x_engine_state="restarting")


async def status(client: FrontendClient, path: str) -> int:
    return (await client.get(path)).status


async def test_each_question_has_its_answer() -> None:
    triton = FakeTriton(m=Model(("zh",)), other=Model())
    async with serving(triton), frontend(triton.address, api_keys=frozenset({"secret"})) as client:
        for path in ("/ready/zh", "/ready/other"):  # one that has just started has not heard of all
            await until(lambda path=path: _is(client, path, 200))
        asked = ["/live", "/ready", "/ready/m", "/ready/zh", "/ready/other", "/ready/none"]
        assert [await status(client, path) for path in asked] == [200, 200, 200, 200, 200, 404]
        triton.models["m"].probe = DOWN
        await until(lambda: _is(client, "/ready/m", 503))
        assert [await status(client, path) for path in asked] == [200, 200, 503, 503, 200, 404]
        triton.models["other"].probe = DOWN
        await until(lambda: _is(client, "/ready", 503))
        assert await status(client, "/live") == 200


@pytest.mark.parametrize("path", ["/health", "/live", "/metrics", "/ready", "/ready/m"])
async def test_only_the_question_needs_no_key(path: str) -> None:
    """What is posted to these paths is a request to a model, which would read it."""
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address, api_keys=frozenset({"secret"})) as client:
        assert await status(client, path) == 200
        assert (await client.post({"model": "m"}, path)).status == 401
        assert triton.models["m"].asked == []


async def _is(client: FrontendClient, path: str, expected: int) -> bool:
    return await status(client, path) == expected


async def test_a_server_that_nobody_has_asked_for_long_tells_the_truth_at_once() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton), frontend(triton.address, timing=IDLE) as client:
        assert await status(client, "/ready") == 200
        for probe, expected in ((DOWN, 503), (None, 200)) * 2:
            triton.models["m"].probe = probe
            probes = triton.probes["m"]
            await until(lambda expected=expected: _is(client, "/ready/m", expected))
            assert triton.probes["m"] - probes <= 20, "it is asked, and not over and over"


async def test_requests_are_told_when_the_engine_is_expected() -> None:
    """It was taken for a model that has too many requests, and its server for well."""
    triton = FakeTriton(m=Model(serve=DOWN, probe=DOWN))
    async with serving(triton), frontend(triton.address) as client:
        answer = await client.post({"model": "m"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "90")
        assert await status(client, "/ready") == await status(client, "/health") == 503
        triton.models["m"].serve, triton.models["m"].probe = reply(), None
        assert (await client.post({"model": "m"})).status == 200, "there is nobody else"
        assert await status(client, "/ready") == 200


async def test_a_model_that_has_too_many_requests_is_ready() -> None:
    full = reply(503, "MAX_INFLIGHT_REQUESTS is 4", retry_after="1")
    triton = FakeTriton(m=Model(serve=full))
    async with serving(triton), frontend(triton.address) as client:
        triton.models["m"].probe = full
        for _ in range(5):
            assert (await client.post({"model": "m"})).status == 503
            assert await status(client, "/ready") == 200


async def test_without_a_server_it_is_not_ready() -> None:
    triton = FakeTriton(m=Model())
    async with serving(triton):
        address = triton.address
    async with frontend(address) as client:
        assert [await status(client, path) for path in ("/live", "/ready", "/ready/m")] == [200, 503, 404]


class Server(HttpApi):
    """In a process of its own."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(ports.choose("127.0.0.1", 0, "--port", set()))
        command = [sys.executable, "-m", "vllm_custom_frontend", f"--port={self.port}", "--triton=127.0.0.1:1"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen([*command, *arguments], env=environment)

    def lives(self) -> bool:
        try:
            return self.get("/live").status == 200
        except OSError:
            return False


@pytest.fixture(params=[1, 2], ids=["one process", "workers"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server("--shutdown-delay=600", f"--workers={request.param}")
    wait_until(made.lives)
    yield made
    made.process.kill()
    made.process.wait()


@pytest.mark.slow
def test_a_server_that_is_about_to_end_says_so_before_it_takes_no_more(server: Server) -> None:
    assert server.get("/ready").json == {"status": "no endpoint is usable"}
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.get("/ready").json == {"status": "the server is about to end"})
    assert server.get("/live").status == 200
    assert server.process.poll() is None


@pytest.mark.slow
def test_a_second_signal_does_not_wait() -> None:
    server = Server("--shutdown-delay=600")
    wait_until(server.lives)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.get("/ready").json == {"status": "the server is about to end"})
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
