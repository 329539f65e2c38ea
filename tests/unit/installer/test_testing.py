"""The `test` command: what runs, and the exit status."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.installer import testing
from tools.installer.console import Progress
from tools.installer.environment import Environment


class Runs:
    """Stands for the environment's Python; modules named in `failing` end with that status."""

    def __init__(self, **failing: int) -> None:
        self.failing = failing
        self.modules: list[Sequence[str]] = []

    def __call__(self, environment: Environment, module: Sequence[str], variables: object = None) -> int:
        self.modules.append(module)
        return self.failing.get(module[0], 0)


def run(monkeypatch: pytest.MonkeyPatch, environment: Environment, runs: Runs, *arguments: str) -> int:
    monkeypatch.setattr(testing, "_python", runs)
    return testing.run(environment, Progress(), arguments)


def test_all_of_it_without_arguments(monkeypatch: pytest.MonkeyPatch, environment: Environment) -> None:
    runs = Runs()
    assert run(monkeypatch, environment, runs) == 0
    assert [" ".join(module[:2]) for module in runs.modules] == [
        "ruff check",
        "ruff format",
        "mypy",
        "codespell_lib",
        "pytest",
    ]


def test_pytest_alone_with_arguments(monkeypatch: pytest.MonkeyPatch, environment: Environment) -> None:
    runs = Runs()
    run(monkeypatch, environment, runs, "tests/unit", "-x")
    assert runs.modules == [("pytest", "tests/unit", "-x")]


@pytest.mark.parametrize(("failing", "status"), [({"mypy": 1}, 1), ({"pytest": 5}, 5), ({"ruff": 2, "pytest": 1}, 1)])
def test_a_failure_does_not_hide_the_rest(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, failing: dict[str, int], status: int
) -> None:
    runs = Runs(**failing)
    assert run(monkeypatch, environment, runs) == status
    assert runs.modules[-1] == ("pytest",)


@pytest.mark.parametrize("background", [False, True])
def test_what_runs_is_told_to_stop_and_awaited(environment: Environment, tmp_path: Path, background: bool) -> None:
    """A build.py that gets SIGTERM lets pytest take its servers down first; also one that a shell has put aside."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.default_int_handler)
    (environment.folder / "bin/python").write_text(
        f"#!{sys.executable}\nimport time, pathlib, os, signal\n"
        f"try:\n    os.kill(os.getppid(), signal.SIGTERM)\n    time.sleep(30)\n"
        f"except KeyboardInterrupt:\n    pathlib.Path({str(tmp_path / 'cleaned')!r}).touch()\n"
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            testing._python(environment, ("pytest",))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "cleaned").exists()
