"""Engines with several workers: tensor parallel and data parallel on one node, and over two nodes.

Greedy answers are those of the model with one worker. A worker or an engine that is killed is noticed at once.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import one_process
from tests.support.client import Client
from tests.support.front_processes import engine_cores, family, hosts, is_alive, stubs
from tests.support.servers import Loads, Repository, parameter, serving, wait_until
from tests.support.shapes import picture
from tests.support.versions import needs_vllm
from tools.installer import environment, ports
from tools.installer.paths import BACKEND_SOURCES
from tools.installer.server import TritonServer, child_environment
from vllm_custom.engine.vllm.host import PROGRAM

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("VLLM_CUSTOM_TEST_PARALLEL"),
        reason="not run: five loads of two workers take minutes on two cores; set VLLM_CUSTOM_TEST_PARALLEL=1",
    ),
    needs_vllm("0.32", "several workers on the CPU, and nodes that are waited for so long and no longer"),
]

TENSOR, DATA, NODES = "tensor_parallel", "data_parallel", "two_nodes"
ONE_INSTANCE = 'backend: "vllm_custom"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n'
METRICS = parameter("REPORT_CUSTOM_METRICS", "true")
LONG: dict[str, Any] = {"text_input": "2+3=", "temperature": 0, "ignore_eos": True, "max_tokens": 8000}
ENVIRONMENT = one_process.ENVIRONMENT | {
    # vLLM binds each worker to a NUMA node of its own, and few machines have several.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Workers wait for each other with their cores busy.
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}
# A load of such a model, on a machine that does other things as well.
START_SECONDS = 240
LOST_SECONDS = 30


@pytest.fixture(scope="module")
def expected(superset: str, client: Client) -> list[str]:
    """What the model answers with one worker."""
    return answers(client, superset)


@pytest.fixture(scope="module")
def server(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Of models with several workers, which have other environment variables."""
    with serving(repository, tmp_path_factory.mktemp("parallel"), env=ENVIRONMENT) as started:
        yield started


@pytest.fixture(scope="module")
def several(server: TritonServer) -> Client:
    return Client(server.http_url, server.metrics_url)


def answers(client: Client, model: str, **placed: int) -> list[str]:
    drawn = picture(23_100, (224, 224), count=2)
    image = [base64.b64encode(drawn.encoded()).decode()]
    bodies: list[dict[str, Any]] = [
        {"text_input": "2+3=", "max_tokens": 5},
        {"text_input": "Hello", "max_tokens": 60, "ignore_eos": True},
        {"text_input": "Describe the image.", "image": image},
    ]
    found = [client.generate(model, temperature=0, **body, **placed).text for body in bodies]
    assert found[2] == drawn.answer()
    return found


def add(repository: Repository, name: str, config: str = ONE_INSTANCE, **arguments: Any) -> None:
    given = repository.shapes_args(**arguments)
    repository.add(name, config + METRICS, given)


def below(triton: TritonServer, model: str) -> list[psutil.Process]:
    """All processes of a model."""
    above = stubs(triton, model) + hosts(triton, model, PROGRAM)
    return [process for one in above for process in family(one)]


def workers(triton: TritonServer, model: str) -> list[psutil.Process]:
    return [worker for core in engine_cores(triton, model) for worker in _workers_of(core)]


def _workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if is_alive(child) and "Worker" in child.name()]


def unload(client: Client, triton: TritonServer, model: str) -> None:
    """It leaves no process."""
    left = below(triton, model)
    assert left
    client.unload(model)
    wait_until(lambda: not client.is_ready(model))
    wait_until(lambda: not any(map(is_alive, left)))


def test_tensor_parallel(repository: Repository, several: Client, server: TritonServer, expected: list[str]) -> None:
    """With a worker that is killed in the middle of a stream: the engine is started again, with two workers."""
    add(repository, TENSOR, tensor_parallel_size=2)
    Loads(server, several)(TENSOR)
    assert answers(several, TENSOR) == expected
    before = workers(server, TENSOR)
    assert len(before) == 2
    with several.open_stream(TENSOR, **LONG) as events:
        next(events)
        before[1].kill()
        (end,) = [event for event in events if "error" in event]
    assert "has died" in end["error"]
    assert "is being started again; try again in" in several.generate(TENSOR, **LONG).error
    wait_until(lambda: several.generate(TENSOR, **LONG | {"max_tokens": 2}).status == 200, START_SECONDS)
    assert answers(several, TENSOR) == expected
    after = workers(server, TENSOR)
    assert len(after) == 2
    assert not set(before) & set(after)
    unload(several, server, TENSOR)


def test_data_parallel(repository: Repository, several: Client, server: TritonServer, expected: list[str]) -> None:
    """Each engine gives the same answers, and counts its own requests; when one dies, the model does."""
    config = ONE_INSTANCE + parameter("ENGINE_RESTARTS", "0")
    add(repository, DATA, config, data_parallel_size=2, distributed_executor_backend="uni")
    Loads(server, several)(DATA)
    for rank in (0, 1):
        assert answers(several, DATA, data_parallel_rank=rank) == expected
    assert (
        "data_parallel_rank: expected a number from 0 to 1"
        in several.generate(DATA, text_input="2+3=", data_parallel_rank=2).error
    )
    counted = [f'vllm:generation_tokens_total{{engine="{rank}",model="{DATA}",version="1"}}' for rank in (0, 1)]
    wait_until(lambda: all(several.metrics().get(name, 0) > 0 for name in counted))
    cores = engine_cores(server, DATA)
    assert len(cores) == 2
    with several.open_stream(DATA, **LONG, data_parallel_rank=0) as events:
        next(events)
        cores[1].kill()
        (end,) = [event for event in events if "error" in event]
    assert "has died" in end["error"]
    assert "has died" in several.generate(DATA, **LONG).error
    unload(several, server, DATA)


@pytest.fixture
def second_node(repository: Repository, tmp_path: Path) -> Iterator[psutil.Process]:
    """Of the model on two nodes: a program that knows nothing of the server but an address."""
    port = ports.choose("127.0.0.1", 0, "master_port", set())
    there = {"nnodes": 2, "node_rank": 0, "master_addr": "127.0.0.1", "master_port": port}
    add(repository, NODES, tensor_parallel_size=2, **there)
    found = environment.current()
    command = [found.python, "-m", "vllm_custom.node", repository.folder / NODES / "1", "--rank=1"]
    variables = {"PYTHONPATH": str(BACKEND_SOURCES / "vllm_custom"), **ENVIRONMENT}
    log = tmp_path / "node.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, env=child_environment(found, variables)
        )
    node = psutil.Process(process.pid)
    try:
        yield node
    finally:
        print(log.read_text()[-3000:])
        for one in family(node) if is_alive(node) else []:
            one.kill()
        process.wait()


def test_two_nodes(several: Client, server: TritonServer, expected: list[str], second_node: psutil.Process) -> None:
    """The second one ends with the first one's engine."""
    Loads(server, several)(NODES)
    assert answers(several, NODES) == expected
    assert [len(workers(server, NODES)), len(_workers_of(second_node))] == [1, 1]
    of_second = family(second_node)
    unload(several, server, NODES)
    wait_until(lambda: not any(map(is_alive, of_second)), LOST_SECONDS)
