"""`doctor`: findings, the ways to fix them, and the exit status."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest

from tests.support.environments import add_distribution
from tests.support.triton_tree import make_tree
from tools.installer import checks, doctor, environment, hooks, machine, ports
from tools.installer.checks import Check, Status
from tools.installer.console import BuildError
from tools.installer.doctor import DoctorOptions
from tools.installer.environment import Environment
from tools.installer.interpreter import Interpreter
from tools.installer.paths import BACKEND_SOURCES, DEFAULT_REPOSITORY

PYTHON = Interpreter(Path("/usr/bin/python3.11"), "3.11.2", Path("/usr"), Path("/usr/lib/libpython3.11.so.1.0"), True)


@pytest.fixture
def examined(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A machine on which everything is as it should be."""
    from tools.installer import environment as environments

    monkeypatch.setenv("VLLM_CUSTOM_HOME", str(environment.folder.parent))
    monkeypatch.delenv("VLLM_BACKEND_DIR", raising=False)
    monkeypatch.setattr(environments, "describe", lambda flavour, python: (environment, PYTHON))
    monkeypatch.setattr(environments.locks, "read_pins", lambda flavour, python: {"numpy": "1.26.4"})
    monkeypatch.setattr(machine, "nvidia_gpus", list)
    monkeypatch.setattr(ports, "is_free", lambda host, port: True)
    stub = environment.triton / "python_backend_stubs/3.11/triton_python_backend_stub"
    stub.write_text("#!/bin/sh\necho Expected 9 arguments\n")
    stub.chmod(0o755)
    add_distribution(environment, "numpy", "1.26.4")
    hooks.install(environment.site_packages, "cpu")
    return environment


def by_name(name: str) -> Check:
    return next(check for check in doctor.examine(DoctorOptions()) if check.name == name)


@pytest.mark.usefixtures("examined")
def test_a_good_machine_has_no_failures(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(doctor.examine(DoctorOptions()), as_json=False) == 0
    assert "all checks passed" in capsys.readouterr().out


def test_a_half_installed_environment_fails_and_says_how_to_go_on(
    examined: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    examined.marker.unlink()
    assert doctor.run(doctor.examine(DoctorOptions()), as_json=True) == 1
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert found["environment"]["status"] == "fail"
    assert "build.py install" in found["environment"]["fix"]
    assert "Python stub" not in found, "what builds on it is not looked at"


def test_a_changed_package_is_named(examined: Environment) -> None:
    (examined.site_packages / "numpy-1.26.4.dist-info").rename(examined.site_packages / "numpy-2.0.0.dist-info")
    assert "numpy: 2.0.0 instead of 1.26.4" in by_name("environment").found


def test_a_stub_that_finds_no_libpython_fails(examined: Environment) -> None:
    stub = examined.triton / "python_backend_stubs/3.11/triton_python_backend_stub"
    stub.write_text(
        "#!/bin/sh\necho 'stub: error while loading shared libraries: libpython3.11.so.1.0' >&2\nexit 127\n"
    )
    check = by_name("Python stub")
    assert check.status is Status.FAIL
    assert "libpython3.11.so.1.0" in check.found
    assert "apt-get install libpython3.11" in check.fix


def test_a_changed_hook_fails(examined: Environment) -> None:
    (examined.site_packages / "_vllm_custom_torchvision_ops.pth").unlink()
    assert by_name("start-up patches").status is Status.FAIL


@pytest.mark.usefixtures("examined")
def test_a_base_backend_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLLM_BACKEND_DIR", str(tmp_path))
    assert by_name("base backend").status is Status.FAIL
    (tmp_path / "model.py").touch()
    assert "TritonPythonModel: model.py has no such class" in by_name("base backend").found
    monkeypatch.setenv("VLLM_BACKEND_DIR", str(BACKEND_SOURCES / "vllm"))
    assert by_name("base backend").found.startswith("stand-in (hash ")


@pytest.mark.usefixtures("examined")
def test_taken_ports_come_with_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda host, port: port != 8001)
    check = by_name("ports")
    assert check.status is Status.WARN
    assert check.fix == "serve with --grpc-port 0"


def test_older_environments_are_shown(examined: Environment) -> None:
    old = examined.folder.with_name("env-cpu-py311-old")
    old.mkdir()
    assert str(old) in by_name("older environments").fix


def test_no_python_that_fits_is_a_finding_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flavour: str | None, python: str | None) -> None:
        raise BuildError("no shared libpython3.11.so.1.0", "apt-get install libpython3.11")

    monkeypatch.setattr(environment, "describe", refuse)
    check = by_name("Python")
    assert check.status is Status.FAIL
    assert check.fix == "apt-get install libpython3.11"


def test_the_table_lines_up() -> None:
    lines = checks.table([Check("a", Status.OK, "x"), Check("longer", Status.FAIL, "y", "z")]).splitlines()
    assert lines == ["ok    a       x", "fail  longer  y", "              fix: z"]


@pytest.mark.usefixtures("examined")
def test_the_cuda_build_without_a_gpu_is_a_warning() -> None:
    found = {check.name: check for check in doctor.examine(DoctorOptions(flavour="cuda"))}
    assert found["GPU"].status is Status.WARN


def test_numpy_2_breaks_the_wheels_stub(examined: Environment) -> None:
    (examined.site_packages / "numpy-1.26.4.dist-info").rename(examined.site_packages / "numpy-2.1.0.dist-info")
    add_distribution(examined, "nvidia_pytriton", "0.7.0")
    check = by_name("numpy")
    assert (check.status, "breaks on every text tensor" in check.found) == (Status.FAIL, True)
    assert check.fix.endswith("-m pip install 'numpy<2'")


@pytest.mark.parametrize(("mib", "status"), [(16, Status.FAIL), (64, Status.WARN), (256, Status.OK)])
def test_a_small_shared_memory_is_seen(mib: int, status: Status) -> None:
    check = doctor.shared_memory_check(mib * 1024**2)
    assert check.status is status
    assert ("--shm-size=1g" in check.fix) is (status is not Status.OK)


@pytest.mark.usefixtures("examined")
def test_a_taken_port_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(doctor, "_PORTS", {server.getsockname()[1]: "--http-port"})
        (check,) = doctor._ports()
    assert (check.status, check.fix) == (Status.WARN, "serve with --http-port 0")


@pytest.mark.usefixtures("examined")
def test_models_and_a_triton_are_looked_at_where_asked(tmp_path: Path) -> None:
    asked = DoctorOptions(repository=tmp_path, triton=tmp_path / "no", media_urls=("http://a.example/",))
    found = {check.name: check for check in doctor.examine(asked)}
    assert found["Triton"].status is Status.FAIL
    assert "environment" not in found, "a Triton of its own has its own Python"
    assert found["model repository"].found.endswith("contains no model")
    without = {check.name: check for check in doctor.examine(DoctorOptions(media_urls=("http://a.example/",)))}
    assert without["media"].fix.startswith("give --model-repository")


def test_a_triton_that_is_there_is_judged_with_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.current()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(found.library_folder or ""))
    root = make_tree(found, tmp_path / "tritonserver")
    shutil.copytree(BACKEND_SOURCES / "vllm", root / "backends/vllm")
    (tmp_path / "models/pipeline").mkdir(parents=True)
    (tmp_path / "models/pipeline/config.pbtxt").write_text('platform: "ensemble"\n')
    asked = DoctorOptions(triton=root, python=sys.executable, repository=tmp_path / "models")
    checks = {check.name: check for check in doctor.examine(asked)}
    assert [name for name, check in checks.items() if check.status is Status.FAIL] == []
    assert {"Python backend", "Triton", "vLLM", "numpy", "vLLM and torch", "ensembles"} <= checks.keys()


@pytest.mark.usefixtures("examined")
def test_gpu_memory_of_another_machine() -> None:
    asked = DoctorOptions(repository=DEFAULT_REPOSITORY, gpu_memory_gib=0.001)
    found = {check.name: check for check in doctor.examine(asked)}
    assert found["shapes_vl: GPU memory"].status is Status.FAIL
