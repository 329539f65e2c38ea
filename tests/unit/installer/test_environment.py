"""Where the environment lies, when it counts as finished, and how an interrupted one is taken up again."""

import dataclasses
import fcntl
from pathlib import Path

import pytest

from tests.support.environments import add_distribution
from tools.installer import environment as environments
from tools.installer import interpreter, locks, paths
from tools.installer.console import BuildError, Progress
from tools.installer.environment import Environment
from tools.installer.interpreter import Interpreter

PYTHON = Interpreter(Path("/usr/bin/python3.11"), "3.11.2", Path("/usr"), Path("/usr/lib/libpython3.11.so.1.0"), True)


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("VLLM_CUSTOM_HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_CUSTOM_FLAVOUR", raising=False)
    monkeypatch.setattr(interpreter, "choose", lambda wanted=None: PYTHON)
    return monkeypatch


def folder_name(flavour: str = "cpu") -> str:
    return environments.describe(flavour)[0].folder.name


@pytest.mark.usefixtures("described")
def test_the_name_says_flavour_and_python() -> None:
    assert folder_name().startswith("env-cpu-py311-")
    assert folder_name("cuda").startswith("env-cuda-py311-")
    assert len(folder_name().rpartition("-")[2]) == 12


def test_the_name_changes_with_lock_python_and_recipe(described: pytest.MonkeyPatch) -> None:
    names = [folder_name()]
    with described.context() as patch:
        patch.setattr(locks, "read_pins", lambda flavour, python: {"numpy": "1.26.3"})
        names.append(folder_name())
    with described.context() as patch:
        patch.setattr(environments, "RECIPE", environments.RECIPE + 1)
        names.append(folder_name())
    with described.context() as patch:
        patch.setattr(interpreter, "choose", lambda wanted=None: dataclasses.replace(PYTHON, version="3.11.3"))
        names.append(folder_name())
    assert len(set(names)) == 4
    assert folder_name() == names[0]


def test_an_unknown_flavour_is_refused(described: pytest.MonkeyPatch) -> None:
    described.setenv("VLLM_CUSTOM_FLAVOUR", "tpu")
    with pytest.raises(BuildError, match="'tpu' does not exist"):
        environments.describe()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"VLLM_CUSTOM_HOME": "/data/envs", "XDG_CACHE_HOME": "/cache"}, "/data/envs"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/vllm_custom"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/user/.cache/vllm_custom"),
        ({}, "/home/user/.cache/vllm_custom"),
    ],
)
def test_the_place_of_the_cache(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_CUSTOM_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/user")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert paths.home() == Path(expected)


def test_without_its_marker_it_is_not_finished(environment: Environment) -> None:
    assert environment.is_complete
    environment.marker.unlink()
    assert not environment.is_complete


def test_versions_are_read_by_the_names_that_locks_use(environment: Environment) -> None:
    add_distribution(environment, "typing_extensions", "4.16.0")
    add_distribution(environment, "zope.event", "6.2")
    add_distribution(environment, "PyYAML", "6.0.3")
    assert environments.installed_versions(environment) == {
        "typing-extensions": "4.16.0",
        "zope-event": "6.2",
        "pyyaml": "6.0.3",
    }


def test_differences_name_what_is_missing_or_other(environment: Environment) -> None:
    add_distribution(environment, "torch", "2.13.0+cpu")
    add_distribution(environment, "numpy", "2.1.0")
    pins = {"torch": "2.13.0", "numpy": "1.26.4", "pillow": "13.0.0"}
    assert environments.differences(environment, pins) == [
        "numpy: 2.1.0 instead of 1.26.4",
        "pillow: missing instead of 13.0.0",
    ]


def test_what_was_cut_off_is_installed_again(environment: Environment) -> None:
    """pip takes a package for installed as soon as its metadata is there, whatever else is missing."""
    whole = add_distribution(environment, "numpy", "1.26.4")
    cut_off = add_distribution(environment, "pillow", "13.0.0", finished=False)
    environments._drop_half_installed(environment)
    assert whole.exists()
    assert not cut_off.exists()


def test_the_systems_libpython_needs_no_search_path(environment: Environment) -> None:
    assert environment.library_folder == Path("/opt/python/lib")
    text = environment.marker.read_text().replace("/opt/python/lib", "/usr/lib/x86_64-linux-gnu")
    environment.marker.write_text(text)
    assert environment.library_folder is None


def test_a_second_installation_waits(environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        environments._only_one(environment, Progress()),
        environment.folder.with_suffix(".lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with environments._only_one(environment, Progress()):
        assert "waiting" not in capsys.readouterr().err


def test_a_process_outside_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(BuildError, match="not made by build"):
        environments.current()
