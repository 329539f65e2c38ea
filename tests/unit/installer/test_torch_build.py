"""Where torch comes from, in which order, and what is said about it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.installer import machine, torch_build
from tools.installer.console import BuildError, Progress


class FakePip:
    """Installs from the places that it is told work, by their position."""

    def __init__(self, *working: int) -> None:
        self.progress = Progress()
        self.working = working
        self.tried: list[Sequence[str]] = []

    def try_install(self, arguments: Sequence[str], total: int = 0) -> bool:
        self.tried.append(arguments)
        return len(self.tried) - 1 in self.working

    def install(self, arguments: Sequence[str], what: str, total: int = 0) -> None:
        if not self.try_install(arguments):
            raise BuildError(f"could not install {what}")


def install(pip: FakePip, folder: Path) -> str:
    return torch_build.install_cpu(pip, "2.13.0", folder)  # type: ignore[arg-type]


def test_pips_own_configuration_comes_first(tmp_path: Path) -> None:
    pip = FakePip(0)
    assert "pip's own configuration" in install(pip, tmp_path)
    assert [list(arguments) for arguments in pip.tried] == [["--no-deps", "torch==2.13.0+cpu"]]


def test_then_pytorchs_cpu_index(tmp_path: Path) -> None:
    pip = FakePip(1)
    assert "CPU index" in install(pip, tmp_path)
    assert torch_build.CPU_INDEX in pip.tried[1]


def test_then_pypis_default_build_and_it_is_said_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100 * machine.GIB}))
    pip = FakePip(2)
    assert install(pip, tmp_path) == "PyPI's default build"
    assert "torch===2.13.0" in pip.tried[2], "=== or pip would take a +cpu build for it"
    assert "--no-deps" not in pip.tried[2], "its CUDA libraries are needed to import it"
    assert "no CPU build can be had" in capsys.readouterr().err


def test_the_default_build_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2 * machine.GIB}))
    pip = FakePip(2)
    with pytest.raises(BuildError, match=r"2\.0 GiB free .* needs 6\.0 GiB"):
        install(pip, tmp_path)
    assert len(pip.tried) == 2


def test_no_build_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        install(FakePip(), tmp_path)
