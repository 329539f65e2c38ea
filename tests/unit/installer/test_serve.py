"""`serve`: which models are loaded, what is printed, what a signal does."""

from pathlib import Path

import pytest

from tools.installer import serve
from tools.installer.environment import Environment
from tools.installer.frontend import Frontend
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
