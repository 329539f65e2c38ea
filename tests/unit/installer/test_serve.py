"""`serve`: which models are loaded, what is printed, what a signal does."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import build
from tools.installer import ports, serve
from tools.installer.console import BuildError
from tools.installer.environment import Environment
from tools.installer.frontend import DirectServer, Frontend
from tools.installer.paths import DEFAULT_REPOSITORY


class FakeServer:
    """Notes what it is asked to do."""

    http_url = "http://127.0.0.1:8000"
    grpc_url = "127.0.0.1:8001"
    metrics_url = "http://127.0.0.1:8002/metrics"

    def __init__(self, models: list[str] | None = None) -> None:
        self.models = models
        self.asked: list[str] = []

    def ask_to_stop(self) -> None:
        self.asked.append("drain")

    def kill(self) -> None:
        self.asked.append("kill")


def test_of_our_own_repository_only_shapes_vl() -> None:
    assert serve.models_of(DEFAULT_REPOSITORY) == ["shapes_vl"]
    assert serve.models_of(DEFAULT_REPOSITORY / "." / "..", []) == ["*"]


def test_another_repository_is_loaded_whole(tmp_path: Path) -> None:
    assert serve.models_of(tmp_path) == ["*"]


@pytest.mark.parametrize("flag", ["--model-control-mode=poll", "--load-model=other", "--load-model"])
def test_who_says_which_models_gets_those(flag: str) -> None:
    assert serve.models_of(DEFAULT_REPOSITORY, [flag]) is None


def test_a_server_is_looked_after_once_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Loading(FakeServer):
        pid = 0
        command = ("tritonserver", "--model-control-mode=explicit")

        def is_ready(self) -> bool:
            return len(seen) > 1

    class Look:
        def __init__(self, what: str) -> None:
            self._what = what

        def look(self) -> None:
            seen.append(self._what)

    monkeypatch.setattr(serve, "LoadGuard", lambda pid: Look("loads"))
    monkeypatch.setattr(serve, "healer_of", lambda pid, arguments, say: Look(f"instances {arguments[0]}"))
    watch = serve._Watch(Loading(), lambda server: seen.append("ready"))  # type: ignore[arg-type]
    for _ in range(4):
        watch.look()
    assert seen == ["loads", "loads", "ready", *["instances --model-control-mode=explicit"] * 2]


def test_the_first_signal_drains_and_the_second_does_not_wait() -> None:
    server = FakeServer()
    stopper = serve.Stopper(server)  # type: ignore[arg-type]
    assert not stopper.asked
    for _ in range(3):
        stopper(2, None)
    assert stopper.asked
    assert server.asked == ["drain", "kill"]


def test_the_banner_has_the_addresses_and_something_to_try() -> None:
    text = serve.banner(FakeServer(["shapes_vl"]))  # type: ignore[arg-type]
    for part in (FakeServer.http_url, FakeServer.grpc_url, FakeServer.metrics_url, "curl", "models/shapes_vl/generate"):
        assert part in text
    assert "curl" not in serve.banner(FakeServer(None))  # type: ignore[arg-type]


class FakeFrontend:
    """Notes that it is asked to stop."""

    url = "http://127.0.0.1:9000/v1"
    ends_first = False

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def ask_to_stop(self) -> None:
        self._asked.append("frontend")


def test_the_frontend_drains_with_the_server() -> None:
    server = FakeServer()
    stopper = serve.Stopper(server, FakeFrontend(server.asked))  # type: ignore[arg-type]
    stopper(2, None)
    assert server.asked == ["frontend", "drain"]


def test_the_banner_says_where_openais_api_is() -> None:
    frontend = FakeFrontend([])
    assert f"OpenAI   {frontend.url}" in serve.banner(FakeServer(), frontend)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:{}/v1"), ("0.0.0.0", "http://127.0.0.1:{}/v1"), ("::1", "http://[::1]:{}/v1")],
)
def test_how_the_frontend_is_started(environment: Environment, host: str, url: str) -> None:
    frontend = Frontend(environment, host, 0, "127.0.0.1:8001")
    assert frontend.url == url.format(frontend.port)
    program, *arguments = frontend.command
    assert program == str(environment.folder / "bin/python")
    assert arguments[:2] == ["-m", "vllm_custom_frontend"]
    assert {f"--host={host}", f"--port={frontend.port}", "--triton=127.0.0.1:8001"} == set(arguments[2:])
    assert frontend.returncode is None
    frontend.stop()


class FakeDirect(FakeFrontend):
    """One that needs the models to its end."""

    ends_first = True

    def kill(self) -> None:
        self._asked.append("kill frontend")


def test_the_direct_server_drains_before_the_models_do() -> None:
    server = FakeServer()
    stopper = serve.Stopper(server, FakeDirect(server.asked))  # type: ignore[arg-type]
    stopper(2, None)
    assert server.asked == ["frontend"]
    stopper(2, None)
    assert server.asked == ["frontend", "kill", "kill frontend"]


def test_a_port_of_tritonserver_is_not_given_to_the_frontend(environment: Environment) -> None:
    """The frontend took it, and tritonserver's readiness was asked of the frontend forever."""
    port = ports.choose("127.0.0.1", 0, "--http-port", set())
    with pytest.raises(BuildError, match=f"port {port} is given twice"):
        Frontend(environment, "127.0.0.1", port, "127.0.0.1:8001", taken={port})
    server = SimpleNamespace(pid=17, grpc_url="127.0.0.1:8001", ports={port})
    with pytest.raises(BuildError, match=f"port {port} is given twice"):
        DirectServer(environment, "127.0.0.1", port, server, 2)  # type: ignore[arg-type]


def test_how_several_workers_are_started(environment: Environment) -> None:
    assert "--workers=3" in Frontend(environment, "127.0.0.1", 0, "127.0.0.1:8001", 3).command


def test_how_the_direct_server_is_started(environment: Environment) -> None:
    server = SimpleNamespace(pid=17, grpc_url="127.0.0.1:8001", http_url="http://127.0.0.1:8000", ports=set())
    direct = DirectServer(environment, "127.0.0.1", 0, server, 2)  # type: ignore[arg-type]
    assert direct.command[1:3] == ["-m", "vllm_custom_direct"]
    given = {"--host=127.0.0.1", f"--port={direct.port}", "--workers=2"}
    assert set(direct.command[3:]) == {*given, "--server=17", "--triton-http=http://127.0.0.1:8000"}
    assert [Path(folder).name for folder in direct.variables["PYTHONPATH"].split(":")] == ["vllm_custom", "frontend"]


@pytest.mark.parametrize(
    "given", [["--openai-direct=2"], ["--openai-port=0", "--openai-direct=2", "--openai-workers=2"]]
)
def test_the_direct_server_needs_a_port_and_has_one_number_of_processes(given: list[str]) -> None:
    options = build.parser().parse_args(["serve", *given])
    options.extra_args = []
    with pytest.raises(BuildError, match="--openai-direct needs --openai-port"):
        options.run(options)


def test_how_long_the_requests_of_the_direct_server_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    plain = serve.Stopper(server)  # type: ignore[arg-type]
    direct = serve.Stopper(server, FakeDirect(server.asked))  # type: ignore[arg-type]
    for stopper in (plain, direct):
        assert not stopper.has_to_act
        stopper(2, None)
    assert plain.has_to_act
    assert not direct.has_to_act, "tritonserver is asked once the direct server has ended"
    monkeypatch.setattr(serve, "END_SECONDS", 0.0)
    assert direct.has_to_act
