"""Constraints compiled for real, in the process that is there for it: what is slow, crashes or grows costs itself."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import psutil
import pytest

from tools.installer.paths import CHECKOUT
from vllm_custom.engine.vllm.constraints.client import (
    CompileClient,
    CompileProcess,
    DeadlyConstraintError,
    RefusedConstraintError,
    SlowConstraintError,
)
from vllm_custom.engine.vllm.constraints.grammars import compiler_facts
from vllm_custom.errors import UnavailableError

pytestmark = pytest.mark.slow

WEIGHTS = CHECKOUT / "model_repository/shapes_vl/1/weights"
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
# 12 KB for which xgrammar takes minutes on any machine; 240 parts in place of 600 took 8 seconds, 400 took 78.
SLOW = "root ::= " + " ".join(f'([a-z]{{0,{index}}} "x")?' for index in range(1, 600))
# Far beyond any of the limits here, and far below what the grammar would take.
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def facts(vllm: None) -> bytes:
    from transformers import AutoTokenizer
    from vllm.config import StructuredOutputsConfig

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    return compiler_facts(
        SimpleNamespace(
            model_config=SimpleNamespace(get_vocab_size=lambda: len(tokenizer)),
            vllm_config=SimpleNamespace(structured_outputs_config=StructuredOutputsConfig(backend="xgrammar")),
            renderer=SimpleNamespace(tokenizer=tokenizer),
        )
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[list[CompileProcess]]:
    """All that were started here."""
    made: list[CompileProcess] = []
    yield made
    for server in made:
        server.close()


@pytest.fixture
def server(servers: list[CompileProcess], facts: bytes) -> CompileProcess:
    """One for all tests that leave it alive: it takes seconds to start."""
    if not servers or not servers[-1].alive:
        servers.append(CompileProcess())
        servers[-1].load(facts)
    return servers[-1]


@pytest.fixture
def client(facts: bytes, server: CompileProcess) -> Callable[..., CompileClient]:
    def make(seconds: float = PATIENCE_SECONDS, **options: int) -> CompileClient:
        made = CompileClient(facts, seconds, pytest.fail, **options)
        made._start = lambda: server  # type: ignore[method-assign]
        return made

    return make


def children(server: CompileProcess) -> list[psutil.Process]:
    running = []
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                running.append(child)
    return running


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_what_compiles_is_accepted(client: Callable[..., CompileClient]) -> None:
    verdict = await client().compile("json", SCHEMA, {})
    assert (verdict.backend, verdict.as_grammar) == ("xgrammar", False)
    assert (await client().compile("choice", ["a", "b"], {})).as_grammar


async def test_what_is_wrong_is_told_with_its_place(client: Callable[..., CompileClient]) -> None:
    with pytest.raises(RefusedConstraintError, match=r"^at \$\.type: 'objec' is not valid"):
        await client().compile("json", '{"type": "objec"}', {})


async def test_what_is_slow_is_ended_in_time(client: Callable[..., CompileClient], server: CompileProcess) -> None:
    begun = time.monotonic()
    with pytest.raises(SlowConstraintError):
        await client(seconds=0.5).compile("grammar", SLOW, {})
    assert time.monotonic() - begun < PATIENCE_SECONDS
    await until(lambda: not children(server))


async def test_what_is_slow_does_not_hold_up_others(
    client: Callable[..., CompileClient], server: CompileProcess
) -> None:
    shared = client()
    slow = [asyncio.create_task(shared.compile("grammar", f"{SLOW} {index * chr(32)}", {})) for index in range(4)]
    await until(lambda: bool(children(server)))
    await asyncio.wait_for(shared.compile("json", SCHEMA, {}), PATIENCE_SECONDS / 2)
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    await until(lambda: not children(server))


async def test_a_client_that_has_gone_ends_its_compilation(
    client: Callable[..., CompileClient], server: CompileProcess
) -> None:
    task = asyncio.create_task(client().compile("grammar", SLOW, {}))
    await until(lambda: bool(children(server)))
    task.cancel()
    await asyncio.wait([task])
    await until(lambda: not children(server))


async def test_what_needs_too_much_memory_costs_itself(
    client: Callable[..., CompileClient], server: CompileProcess
) -> None:
    with pytest.raises(DeadlyConstraintError):
        await client(memory_bytes=8 << 20).compile("choice", [f"value number {index}" for index in range(5000)], {})
    assert (await client().compile("json", SCHEMA, {})).backend == "xgrammar"


async def test_a_compiler_that_crashes_costs_its_constraint(
    client: Callable[..., CompileClient], server: CompileProcess
) -> None:
    task = asyncio.create_task(client().compile("grammar", SLOW, {}))
    await until(lambda: any(child.cpu_times().user > 0.1 for child in children(server)))
    children(server)[0].kill()
    with pytest.raises(DeadlyConstraintError):
        await task
    assert (await client().compile("json", SCHEMA, {})).backend == "xgrammar"


async def test_a_server_that_was_killed_is_replaced(
    client: Callable[..., CompileClient], server: CompileProcess, servers: list[CompileProcess], facts: bytes
) -> None:
    replaced = client()
    await replaced.start()
    os.kill(server.pid, 9)
    replaced._start = lambda: CompileClient._start(replaced)  # type: ignore[method-assign]
    assert (await replaced.compile("json", SCHEMA, {})).backend == "xgrammar"
    assert replaced._server is not None
    servers.append(replaced._server)
    assert replaced.pid != server.pid


async def test_a_server_that_does_not_start_is_told(vllm: None) -> None:
    told: list[str] = []
    client = CompileClient(b"no facts", PATIENCE_SECONDS, told.append)
    with pytest.raises(UnavailableError, match="structured_outputs: constraints cannot be compiled now; try again"):
        await client.compile("json", SCHEMA, {})
    assert len(told) == 1
    client.close()


async def test_the_server_ends_with_the_process_that_started_it() -> None:
    server = CompileProcess()
    server._control.close()
    await until(lambda: not server.alive)


# A process that has imported vLLM, as the model's has when it makes the copy; it says what is left open there.
COPY = """
import asyncio, os, signal, sys
from pathlib import Path
import vllm.v1.engine.core
from vllm_custom.engine.vllm.constraints.client import CompileClient, CompileProcess
open_here = open(os.devnull)
signal.signal(signal.SIGTERM, lambda *_: None)  # as in Triton's stub
server = CompileProcess(fork=True)
facts = sys.stdin.buffer.read()
client = CompileClient(facts, 60.0, print, process=server)
print(asyncio.run(client.compile("json", sys.argv[1], {})).backend)
descriptors = [os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir() if int(path.name) > 2]
print([name.split(":")[0] for name in descriptors])
print(len(list(Path(f"/proc/{server.pid}/task").iterdir())))
os.kill(server.pid, signal.SIGTERM)
server._process.wait()
print(server.alive)
client.close()
"""


def test_a_copy_of_the_models_process_compiles_and_keeps_nothing_else_of_it(facts: bytes) -> None:
    command = [sys.executable, "-c", COPY, SCHEMA]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, input=facts, env=env, capture_output=True, check=False, timeout=300)
    assert done.stdout.decode().splitlines()[-4:] == ["xgrammar", "['socket']", "1", "False"], done.stderr.decode()
