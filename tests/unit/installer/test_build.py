"""The command line, and what runs on a bare Python."""

import subprocess
import sys

import pytest

import build
from tools.installer import command_table
from tools.installer.console import BuildError
from tools.installer.paths import CHECKOUT

STANDARD_LIBRARY = set(sys.stdlib_module_names)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in command_table.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            build.main([command.name, "--help"])
        assert ended.value.code == 0
        assert command.description.splitlines()[0] in capsys.readouterr().out
    assert {"install", "serve", "demo", "test", "doctor"} <= {command.name for command in command_table.COMMANDS}


def test_serve_has_the_ports_that_triton_has() -> None:
    options = build.parser().parse_args(["serve"])
    assert (options.http_port, options.grpc_port, options.metrics_port) == (8000, 8001, 8002)
    assert options.host == "127.0.0.1"
    assert options.model_repository == CHECKOUT / "model_repository"


def test_what_follows_two_dashes_is_passed_on() -> None:
    assert build._split(["serve", "--host", "::1", "--", "--log-verbose=1", "--", "x"]) == (
        ["serve", "--host", "::1"],
        ["--log-verbose=1", "--", "x"],
    )
    assert build._split(["install"]) == (["install"], [])


def test_an_error_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: object) -> int:
        raise BuildError("the lock is missing", "restore it")

    failing = [command_table.Command("install", "", "", lambda parser: None, fail)]
    monkeypatch.setattr(command_table, "COMMANDS", failing)
    assert build.main(["install"]) == 1
    error = capsys.readouterr().err
    assert "the lock is missing\n  what to do: restore it" in error
    assert "Traceback" not in error


def test_build_and_installer_need_the_standard_library_only() -> None:
    code = (
        "import sys, build\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules if not name.startswith('_')}))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(result.stdout.split()) - STANDARD_LIBRARY <= {"build", "tools"}
