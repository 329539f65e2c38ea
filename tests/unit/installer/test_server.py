"""The command line and the environment of tritonserver; a small program stands in for it where it has to run."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support import fake_triton as fake
from tools.installer.console import BuildError
from tools.installer.environment import Environment
from tools.installer.server import ServerError, TritonServer, child_environment


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    repository, backends = tmp_path / "repository", tmp_path / "backends"
    repository.mkdir()
    for name in ("python", "vllm_custom"):
        (backends / name).mkdir(parents=True)
    return repository, backends


@pytest.fixture(autouse=True)
def nobody_ends_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child here never ends by itself, so that there is nothing to wait for."""
    monkeypatch.setattr("tools.installer.server._ORPHANS_SECONDS", 0.2)


@pytest.fixture
def fake_triton(environment: Environment) -> Environment:
    (environment.triton / "bin/tritonserver").write_text(fake.program())
    return environment


def server(environment: Environment, folders: tuple[Path, Path], tmp_path: Path, **options: object) -> TritonServer:
    repository, backends = folders
    given = {"log": tmp_path / "server.log", **options}
    return TritonServer(repository, environment=environment, backends=backends, **given)  # type: ignore[arg-type]


def test_one_model_is_loaded_explicitly(environment: Environment, folders: tuple[Path, Path], tmp_path: Path) -> None:
    command = server(environment, folders, tmp_path, models=["shapes_vl"]).command
    assert "--model-control-mode=explicit" in command
    assert "--load-model=shapes_vl" in command


def test_a_whole_repository_needs_no_flags(
    environment: Environment, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    command = server(environment, folders, tmp_path).command
    assert not [flag for flag in command if flag.startswith(("--model-control", "--load-model"))]


def test_it_listens_on_one_address_only(environment: Environment, folders: tuple[Path, Path], tmp_path: Path) -> None:
    it = server(environment, folders, tmp_path)
    for service in ("http", "grpc", "metrics"):
        assert f"--{service}-address=127.0.0.1" in it.command
    assert it.http_url == f"http://127.0.0.1:{it.http_port}"
    assert it.grpc_url == f"127.0.0.1:{it.grpc_port}"
    assert len({it.http_port, it.grpc_port, it.metrics_port}) == 3


def test_an_ipv6_address_is_given_to_each_service_in_its_form(
    environment: Environment, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    it = server(environment, folders, tmp_path, host="::1")
    assert {"--http-address=ipv6:::1", "--grpc-address=[::1]", "--metrics-address=ipv6:::1"} < set(it.command)
    assert it.grpc_url == f"[::1]:{it.grpc_port}"
    assert it.metrics_url == f"http://[::1]:{it.metrics_port}/metrics"


def test_every_address_is_called_on_this_machines(
    environment: Environment, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    it = server(environment, folders, tmp_path, host="0.0.0.0")
    assert "--http-address=0.0.0.0" in it.command
    assert it.http_url.startswith("http://127.0.0.1:")


def test_what_the_user_adds_comes_last(environment: Environment, folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert server(environment, folders, tmp_path, extra=["--log-verbose=1"]).command[-1] == "--log-verbose=1"


def test_a_missing_repository_is_named(environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="nowhere does not exist"):
        TritonServer(tmp_path / "nowhere", environment=environment)


@pytest.mark.parametrize("name", ["with space", "a;b", "$HOME", "it's"])
def test_paths_that_triton_cannot_start_models_from_are_refused(
    environment: Environment, folders: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    """Its stub said "No such file or directory" of the part before the space."""
    made = tmp_path / name
    made.mkdir()
    link = tmp_path / "plain"
    link.symlink_to(made)
    for repository, backends in ((made, folders[1]), (link, folders[1]), (folders[0], made)):
        with pytest.raises(BuildError, match="Triton cannot start models from") as refused:
            TritonServer(repository, environment=environment, backends=backends)
        assert "without spaces" in refused.value.fix


def test_children_get_the_environments_python_and_a_utf8_locale(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    env = child_environment(environment, {"EXTRA": "1"})
    assert env["PATH"] == f"{environment.folder}/bin:/usr/bin"
    assert env["LD_LIBRARY_PATH"].split(":") == [
        "/opt/python/lib",
        str(environment.site_packages / "nvidia_pytriton.libs"),
        "/mine",
    ]
    assert env["LC_ALL"] == "C.UTF-8"
    assert "PYTHONPATH" not in env
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "4", "what the user has set stays"
    assert env["EXTRA"] == "1"


def test_started_drained_and_cleaned_up(fake_triton: Environment, folders: tuple[Path, Path], tmp_path: Path) -> None:
    abandoned = Path(f"/dev/shm/vllm_custom_held_{os.getpid()}")
    abandoned.touch()
    it = server(fake_triton, folders, tmp_path).start().wait_ready(20)
    assert os.getpgid(it.pid) == it.pid, "a group of its own: Ctrl-C must not reach it"
    assert os.getsid(it.pid) == os.getsid(0), "Linux may give another session less of the processor"
    left = it.stop(10)
    assert it.returncode == 0
    assert "drained" in it.log_text()
    assert not abandoned.exists(), "what guards noted that were killed is looked at"
    assert len(left) == 1, "the child in another session is found and ended"
    assert it.stop() == []


def test_the_context_manager_waits_and_stops(
    fake_triton: Environment, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with server(fake_triton, folders, tmp_path) as it:
        assert it.is_ready()
        pid = it.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_early_end_shows_the_log(fake_triton: Environment, folders: tuple[Path, Path], tmp_path: Path) -> None:
    it = server(fake_triton, folders, tmp_path, extra=["--fail=1"])
    with pytest.raises(ServerError, match=r"(?s)status 1.*failed to load all models") as caught, it:
        pass
    assert str(it.log) in str(caught.value)


def test_one_that_is_still_loading_is_ended_at_once(
    environment: Environment, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (environment.triton / "bin/tritonserver").write_text("#!/bin/sh\ntrap '' TERM\nsleep 60\n")
    it = server(environment, folders, tmp_path).start()
    with pytest.raises(ServerError, match="not ready within 0 s"):
        it.wait_ready(0.3)
    begun = time.monotonic()
    it.stop()
    assert time.monotonic() - begun < 50
    assert it.returncode == -signal.SIGKILL


def test_a_server_is_started_once(fake_triton: Environment, folders: tuple[Path, Path], tmp_path: Path) -> None:
    it = server(fake_triton, folders, tmp_path)
    with pytest.raises(RuntimeError, match="not been started"):
        _ = it.pid
    assert it.stop() == []
    with it, pytest.raises(RuntimeError, match="started before"):
        it.start()
