"""Instances whose process was killed: they are found, and replaced by what Triton offers for it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools.installer import healing
from tools.installer.healing import Healer, counted, healer_of
from tools.installer.instances import Instances

# Starts what tritonserver starts, and waits for none of it; starts one more for each line, or waits for those that have
# ended, as Triton 26.01 does when it is asked for the readiness of a model.
SERVER = """
import subprocess, sys
folder, backend, name = sys.argv[1:]
def start(number):
    stub = ["/x/triton_python_backend_stub", f"{folder}/m/1/model.py", *"abcdef", name.format(number), backend]
    kept.append(subprocess.Popen(stub, executable=sys.executable))
    print(kept[-1].pid, flush=True)
kept = []
start(0)
start(1)
for number, line in enumerate(sys.stdin, 2):
    if line == "ready?\\n":
        print(sum(child.poll() is not None for child in kept), flush=True)
    else:
        start(number)
"""
SERVED = {"name": "m", "backend": "vllm_custom", "input": [1], "parameters": {"A": {"string_value": "x"}}}


class Server:
    """A process with two children that look like instances of the model m."""

    def __init__(self, folder: Path, backend: str = "/b/vllm_custom", name: str = "m_0_{}") -> None:
        (folder / "m/1").mkdir(parents=True)
        (folder / "m/1/model.py").write_text("import time; time.sleep(1000)")
        command = [sys.executable, "-c", SERVER, str(folder), backend, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.stubs = [self._started(), self._started()]

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.stubs.append(self._started())
        return self.stubs[-1]

    def wait_for_killed(self, number: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        found = 0
        while found < number:
            self.process.stdin.write("ready?\n")
            self.process.stdin.flush()
            found = int(self.process.stdout.readline())

    def stop(self) -> None:
        for pid in self.stubs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()

    def _started(self) -> int:
        assert self.process.stdout is not None
        pid = int(self.process.stdout.readline())
        deadline = time.monotonic() + 10
        while b"model.py" not in Path(f"/proc/{pid}/cmdline").read_bytes():  # until then it is a copy of its parent
            assert time.monotonic() < deadline
        return pid


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def test_a_killed_instance_is_told_once_it_has_been_so_for_a_while(server: Server, tmp_path: Path) -> None:
    instances = Instances(server.pid)
    assert instances.lost() == {}
    os.kill(server.stubs[1], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not (lost := instances.lost()):
        assert time.monotonic() < deadline
    ((process, instance),) = lost.items()
    assert process.pid == server.stubs[1]
    assert (instance.name, instance.model, instance.folder) == ("m_0_1", "m", tmp_path / "m")
    assert instances.lost() == lost


def test_instances_of_other_backends_are_not_ours(tmp_path: Path) -> None:
    server = Server(tmp_path, backend="/b/python")
    instances = Instances(server.pid)
    instances.lost()
    os.kill(server.stubs[0], signal.SIGKILL)
    for _ in range(3):
        assert instances.lost() == {}
    server.stop()


class Triton:
    """Answers as tritonserver does, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[str | None] = []
        self.state = "READY"
        self.versions = 1
        self.served: dict[str, Any] = SERVED
        self.refusals: list[str] = []
        self.refuse_counted = ""
        self.on_load: Callable[[], object] = lambda: None
        triton = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, triton.served)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                triton.headers.append(self.headers["key"])
                if self.path.endswith("/index"):
                    entry = {"name": "m", "state": triton.state}
                    self._answer(200, [{**entry, "version": str(number)} for number in range(triton.versions)])
                    return
                action = self.path.rpartition("/")[2]
                triton.asked.append((action, body))
                triton.state = "READY" if action == "load" else "UNAVAILABLE"
                refusal = triton.refuse_counted if "parameters" in body else ""
                if action == "load" and not refusal and "parameters" not in body and triton.refusals:
                    refusal = triton.refusals.pop(0)
                if not refusal and action == "load":
                    triton.on_load()
                self._answer(400 if refusal else 200, {"error": refusal} if refusal else None)

            def _answer(self, status: int, body: object) -> None:
                payload = json.dumps(body).encode() if body is not None else b""
                self.send_response(status)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def triton() -> Iterator[Triton]:
    made = Triton()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(healing, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(healing, "_LOAD_PAUSES_SECONDS", (0.0, 0.0))


def look_until(healer: Healer, said: list[str], text: str) -> None:
    deadline = time.monotonic() + 10
    while not any(text in line for line in said):
        assert time.monotonic() < deadline, said
        healer.look()
        time.sleep(0.01)


def healed(server: Server, triton: Triton, text: str) -> list[str]:
    """What is said until ``text`` is, after the first instance was killed."""
    said: list[str] = []
    healer = Healer(server.pid, triton.url, said.append, {"key": "secret"})
    healer.look()
    os.kill(server.stubs[0], signal.SIGKILL)
    look_until(healer, said, text)
    return said


def waited_for(server: Server, url: str) -> tuple[Healer, list[str]]:
    """A healer, and what it says: it has seen an instance that has been killed and waited for since."""
    said: list[str] = []
    healer = Healer(server.pid, url, said.append)
    healer.look()
    os.kill(server.stubs[0], signal.SIGKILL)
    server.wait_for_killed(1)
    return healer, said


def test_instances_are_started_anew(server: Server, triton: Triton) -> None:
    triton.on_load = server.start
    said = healed(server, triton, "have been replaced")
    assert "m_0_0" in said[0]
    ((action, body),) = triton.asked
    assert action == "load"
    sent = json.loads(body["parameters"]["config"])
    assert sent == SERVED | {"parameters": {"A": {"string_value": "x"}, "INSTANCES_REPLACED": {"string_value": "1"}}}
    assert set(triton.headers) == {"secret"}


def test_the_old_ones_are_not_missed_and_the_new_ones_are(server: Server, triton: Triton) -> None:
    """Triton keeps them for a while, and where the killed one had requests forever; they end by themselves."""
    triton.on_load = server.start
    said: list[str] = []
    healer = Healer(server.pid, triton.url, said.append)
    healer.look()
    os.kill(server.stubs[0], signal.SIGKILL)
    look_until(healer, said, "have been replaced")
    os.kill(server.stubs[1], signal.SIGKILL)
    for _ in range(20):
        healer.look()
        time.sleep(0.03)
    assert len(triton.asked) == 1
    os.kill(server.stubs[2], signal.SIGKILL)
    look_until(healer, said, "(try 2)")


def test_where_that_is_refused_the_model_is_loaded_again(server: Server, triton: Triton) -> None:
    triton.refuse_counted = "no such thing"
    triton.refusals = ["the engine is full"]
    said = healed(server, triton, "have been replaced")
    assert [action for action, _ in triton.asked] == ["load", "unload", "load", "load"]
    assert any("no such thing" in line for line in said)
    assert any("the engine is full" in line for line in said)
    assert "by loading the model again" in said[-1]


def test_where_triton_starts_none_the_model_is_loaded_again(server: Server, triton: Triton) -> None:
    healed(server, triton, "have been replaced")
    assert [action for action, _ in triton.asked] == ["load", "unload", "load"]


def test_an_instance_that_triton_has_waited_for_is_replaced(server: Server, triton: Triton) -> None:
    """Triton 26.01 and later leave no zombie once somebody has asked whether the model is ready."""
    triton.served = SERVED | {"instance_group": [{"count": 2}]}
    triton.on_load = server.start
    healer, said = waited_for(server, triton.url)
    look_until(healer, said, "have been replaced")
    assert "m_0_0" in said[0]
    for _ in range(20):
        healer.look()
        time.sleep(0.03)
    assert [action for action, _ in triton.asked] == ["load"]


def test_instances_of_all_versions_are_wanted(server: Server, triton: Triton) -> None:
    triton.served = SERVED | {"instance_group": [{"count": 1}]}
    triton.versions = 2
    triton.on_load = server.start
    healer, said = waited_for(server, triton.url)
    look_until(healer, said, "have been replaced")


def test_what_ends_before_triton_answers_is_no_failure(server: Server) -> None:
    """The processes that complete configurations end before the first load does; each model may have one."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        healer, said = waited_for(server, f"http://127.0.0.1:{closed.getsockname()[1]}")
        for _ in range(50):
            healer.look()
            time.sleep(0.03)
        deadline = time.monotonic() + 10
        while healer.busy:
            assert time.monotonic() < deadline
    assert said == []
    assert healer._tries["m"] == []


def test_the_process_that_completes_a_configuration_is_no_instance(tmp_path: Path) -> None:
    server = Server(tmp_path, name="m")
    instances = Instances(server.pid)
    instances.lost()
    assert instances.alive("m") == 0
    server.stop()


@pytest.mark.parametrize(("count", "state"), [(1, "READY"), (2, "UNLOADING")])
def test_an_instance_that_was_to_end_is_not_missed(server: Server, triton: Triton, count: int, state: str) -> None:
    """The model is served with fewer instances than before, or is being unloaded."""
    triton.served = SERVED | {"instance_group": [{"count": count}]}
    triton.state = state
    healer, said = waited_for(server, triton.url)
    deadline = time.monotonic() + 10
    while not triton.headers or healer.busy:
        healer.look()
        assert time.monotonic() < deadline
    for _ in range(20):
        healer.look()
        time.sleep(0.03)
    assert (said, triton.asked) == ([], [])
    assert len(triton.headers) == 1  # looked once
    assert healer._tries["m"] == []


@pytest.mark.parametrize(
    ("groups", "expected"), [([], 0), ([{"count": 2}, {}], 3), ([{"count": 2, "gpus": [0, 1], "kind": "KIND_GPU"}], 4)]
)
def test_instances_are_counted(groups: list[dict[str, Any]], expected: int) -> None:
    assert healing.instances_of({"instance_group": groups}) == expected


def test_tries_are_bounded(server: Server, triton: Triton) -> None:
    """The killed process stays: in this server nothing helps."""
    triton.refuse_counted = "no"
    triton.refusals = ["no"] * 100
    said = healed(server, triton, "no further try")
    assert len([line for line in said if "replacing the instances" in line]) == 3
    assert len([line for line in said if "no further try" in line]) == 1


def test_a_model_that_is_being_unloaded_is_let(server: Server, triton: Triton) -> None:
    triton.state = "UNLOADING"
    said: list[str] = []
    healer = Healer(server.pid, triton.url, said.append)
    healer.look()
    os.kill(server.stubs[0], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not triton.headers:
        healer.look()
        assert time.monotonic() < deadline
    assert (said, triton.asked) == ([], [])


def test_each_replacement_is_another_configuration() -> None:
    first = counted({"name": "m"})
    assert first == {"name": "m", "parameters": {"INSTANCES_REPLACED": {"string_value": "1"}}}
    assert counted(first) == {"name": "m", "parameters": {"INSTANCES_REPLACED": {"string_value": "2"}}}


@pytest.mark.parametrize(
    ("arguments", "heals"),
    [
        (["--model-control-mode=explicit"], True),
        (["--model-control-mode", "explicit", "--http-port", "9"], True),
        (["--model-control-mode=explicit", "--allow-http=false"], False),
        (["--model-control-mode=poll"], False),
        ([], False),
    ],
)
def test_only_a_server_that_loads_on_request_can_be_healed(arguments: list[str], heals: bool) -> None:
    assert (healer_of(os.getpid(), arguments, print) is not None) == heals
