"""The `test` command: what runs, and the exit status."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import build
from tests.support.servers import wait_until
from tools.installer import commands, processes, testing
from tools.installer.console import Progress
from tools.installer.environment import Environment


class Runs:
    """Stands for the environment's Python; modules named in `failing` end with that status."""

    def __init__(self, **failing: int) -> None:
        self.failing = failing
        self.modules: list[Sequence[str]] = []
        self.variables: list[object] = []

    def __call__(
        self, environment: Environment, module: Sequence[str], variables: object = None, background: object = None
    ) -> int:
        self.modules.append(module)
        if variables:
            self.variables.append(variables)
        return self.failing.get(module[0], 0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, environment: Environment) -> Runs:
    """What the command `test` runs, on an environment that is there."""
    made = Runs()
    monkeypatch.setattr(testing, "_python", made)

    class Background(testing.Background):
        def __init__(self, environment: Environment, module: Sequence[str]) -> None:
            self._status = made(environment, module)

        def finish(self) -> int:
            return self._status

        def stop(self) -> None:
            pass

    monkeypatch.setattr(testing, "Background", Background)
    monkeypatch.setattr(commands, "prepare", lambda options, progress: environment)
    return made


def test_checks_and_all_levels_without_arguments(runs: Runs) -> None:
    assert build.main(["test"]) == 0
    assert [module[0] for module in runs.modules] == ["ruff", "ruff", "mypy", "codespell_lib", *["pytest"] * 2]
    unit, servers = runs.modules[-2:]
    assert unit[1] == "tests/unit"
    assert servers[1:3] == ("tests/end_to_end", "tests/component")
    assert "--durations=15" in unit
    assert "--durations=15" in servers
    assert "--cov" in unit


def test_fast_is_checks_and_unit_tests(runs: Runs) -> None:
    assert build.main(["test", "--fast"]) == 0
    (tests,) = (module for module in runs.modules if module[0] == "pytest")
    assert "tests/unit" in tests
    assert "not slow" in tests
    assert not [argument for argument in tests if "component" in argument or "end_to_end" in argument]
    assert build.main(["test", "--fast", "tests/unit"]) == 1


def test_pytest_alone_with_arguments(runs: Runs) -> None:
    assert build.main(["test", "tests/unit", "--", "-x"]) == 0
    assert runs.modules == [("pytest", "tests/unit", "-x")]


def test_what_holds_on_any_base_runs_on_the_one_that_is_named(runs: Runs, tmp_path: Path) -> None:
    assert build.main(["test", "--base", str(tmp_path)]) == 1
    (tmp_path / "src").mkdir()
    (tmp_path / "src/model.py").touch()
    assert build.main(["test", "--base", str(tmp_path)]) == 0
    assert build.main(["test", "--base", str(tmp_path), "tests/end_to_end/test_base.py"]) == 0
    assert runs.modules == [
        ("pytest", "tests/component", "tests/end_to_end", "-m", "any_base"),
        ("pytest", "tests/end_to_end/test_base.py"),
    ]
    assert runs.variables == [{"VLLM_BACKEND_DIR": str(tmp_path / "src")}] * 2


@pytest.mark.parametrize("failing", [{"mypy": 1}, {"pytest": 5}, {"ruff": 2, "pytest": 1}])
def test_a_failure_does_not_hide_the_rest(runs: Runs, failing: dict[str, int]) -> None:
    runs.failing = failing
    assert build.main(["test"]) == 1
    assert len(runs.modules) == len(testing.CHECKS) + len((testing.UNIT, testing.SERVERS))


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


def script(environment: Environment, code: str) -> None:
    """The environment's Python does this in the place of a module."""
    (environment.folder / "bin/python").write_text(
        f"#!{sys.executable}\nimport os, signal, subprocess, sys, time\nfrom pathlib import Path\n{code}"
    )


def test_what_runs_in_the_background_says_all_at_its_end(
    environment: Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    script(environment, "print('nice', os.nice(0))\nprint('bad', file=sys.stderr)\nsys.exit(3)\n")
    running = testing.Background(environment, ("pytest",))
    wait_until(lambda: running._process.poll() is not None)
    assert capfd.readouterr().out == ""
    assert running.finish() == 3
    assert sorted(capfd.readouterr().out.split("\n")) == ["", "bad", f"nice {min(os.nice(0) + testing._NICENESS, 19)}"]
    running.stop()


def test_others_leave_what_runs_in_the_background_alone(environment: Environment, tmp_path: Path) -> None:
    """An orphan too, which would have come to us."""
    orphan = tmp_path / "orphan"
    parent = "import subprocess; process = subprocess.Popen(['sleep', '60']); "
    parent += f"print(process.pid, file=open({str(orphan)!r}, 'w'))"
    script(environment, f"subprocess.run([sys.executable, '-c', {parent!r}])\ntime.sleep(60)\n")
    running = testing.Background(environment, ("pytest",))
    try:
        wait_until(lambda: orphan.exists() and orphan.read_text() != "" and len(running.family()) == 2)
        script(environment, "subprocess.Popen(['sleep', '60'], start_new_session=True)\n")
        assert testing._python(environment, ("mypy",), background=running) == 0
        assert len([process for process in running.family() if processes.is_alive(process)]) == 2
        assert {process.pid for process in running.family()} == {running._process.pid, int(orphan.read_text())}
    finally:
        family = running.family()
        running.stop()
    assert not [process for process in family if processes.is_alive(process)]


def test_what_runs_in_the_background_is_stopped_when_we_are(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, clean = tmp_path / "begun", tmp_path / "cleaned"
    script(
        environment,
        "if 'tests/unit' in sys.argv:\n"
        f"    try:\n        Path({str(begun)!r}).touch()\n        time.sleep(60)\n"
        f"    except KeyboardInterrupt:\n        Path({str(clean)!r}).touch()\n"
        f"else:\n    while not os.path.exists({str(begun)!r}):\n        time.sleep(0.01)\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n    time.sleep(60)\n",
    )
    monkeypatch.setattr(testing, "CHECKS", ())
    with pytest.raises(KeyboardInterrupt):
        testing.run(environment, Progress())
    assert clean.exists()
