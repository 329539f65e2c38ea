"""Which Python the environment is made from."""

import dataclasses
import sys
from pathlib import Path

import pytest

from tools.installer import interpreter
from tools.installer.console import BuildError
from tools.installer.interpreter import Interpreter

GOOD = Interpreter(Path("/usr/bin/python3.11"), "3.11.2", Path("/usr"), Path("/usr/lib/libpython3.11.so.1.0"), True)


def test_the_running_python_answers() -> None:
    found = interpreter.ask(sys.executable)
    assert found is not None
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert found.minor == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_what_is_no_python_is_none() -> None:
    assert interpreter.ask("/nonexistent/python") is None
    assert interpreter.ask("/bin/false") is None


def test_a_fitting_python_has_no_problem() -> None:
    assert interpreter.problem_of(GOOD) is None


@pytest.mark.parametrize(
    ("change", "problem", "package"),
    [
        ({"version": "3.10.13"}, "3.10.13 cannot run", "python3.11-venv"),
        ({"version": "3.13.0"}, "3.13.0 cannot run", "libpython3.11"),
        ({"libpython": None}, "no shared libpython3.11", "apt-get install libpython3.11"),
        ({"can_make_venv": False}, "cannot make virtual environments", "apt-get install python3.11-venv"),
    ],
)
def test_each_problem_comes_with_the_package_that_fixes_it(
    change: dict[str, object], problem: str, package: str
) -> None:
    error = interpreter.problem_of(dataclasses.replace(GOOD, **change))  # type: ignore[arg-type]
    assert error is not None
    assert problem in error.problem
    assert package in error.fix


def test_libpython_of_this_build_is_preferred_to_the_systems(tmp_path: Path) -> None:
    for place in ("own/lib", "own/lib/x86_64-linux-gnu"):
        (tmp_path / place).mkdir(parents=True)
    facts = {"version": "3.11.9", "libdir": str(tmp_path / "own/lib"), "multiarch": "x86_64-linux-gnu", "base": "/none"}
    assert interpreter._libpython(facts) is None
    own = tmp_path / "own/lib/libpython3.11.so.1.0"
    own.touch()
    assert interpreter._libpython(facts) == own


def test_one_debian_package_less_is_told_rather_than_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "a": dataclasses.replace(GOOD, version="3.13.0"),
        "b": dataclasses.replace(GOOD, libpython=None),
    }
    monkeypatch.setattr(interpreter, "_candidates", lambda: list(found))
    monkeypatch.setattr(interpreter, "ask", found.get)
    with pytest.raises(BuildError, match="no shared libpython"):
        interpreter.choose()


def test_the_first_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": dataclasses.replace(GOOD, version="3.13.0"), "b": None, "c": GOOD}
    monkeypatch.setattr(interpreter, "_candidates", lambda: list(found))
    monkeypatch.setattr(interpreter, "ask", found.get)
    assert interpreter.choose() is GOOD


def test_the_one_asked_for_must_fit_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "ask", lambda path: dataclasses.replace(GOOD, can_make_venv=False))
    with pytest.raises(BuildError, match="virtual environments"):
        interpreter.choose("python3.11")
