"""pip's failures, explained. A small script stands in for the environment's Python."""

from pathlib import Path

import pytest

from tools.installer.console import BuildError, Progress
from tools.installer.pip import Pip


def fake_pip(tmp_path: Path, script: str, **environ: str) -> Pip:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return Pip(python, tmp_path / "pip.log", Progress(), {"PATH": "/usr/bin:/bin", **environ})


def test_the_output_goes_to_the_log_with_the_command(tmp_path: Path) -> None:
    pip = fake_pip(tmp_path, 'echo "Collecting numpy"; echo done')
    pip.install(["numpy==1.26.4"], "numpy")
    first, *rest = pip.log.read_text().splitlines()
    assert first.startswith("$ ")
    assert first.endswith("numpy==1.26.4")
    assert rest == ["Collecting numpy", "done"]


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("OSError: [Errno 28] No space left on device", "free some space"),
        ("ERROR: No matching distribution found for x==9", "no wheel for this Python"),
        ("Temporary failure in name resolution", "check the network"),
        ("something unheard of", "run the same command again"),
    ],
)
def test_a_failure_shows_the_end_of_the_log_and_a_remedy(tmp_path: Path, output: str, remedy: str) -> None:
    pip = fake_pip(tmp_path, f'echo "{output}" >&2; exit 1')
    with pytest.raises(BuildError) as caught:
        pip.install(["x==9"], "x")
    assert output in caught.value.problem
    assert str(pip.log) in caught.value.problem
    assert remedy in caught.value.fix


def test_what_would_lead_pip_astray_is_taken_away(tmp_path: Path) -> None:
    pip = fake_pip(tmp_path, "env", PYTHONPATH="/elsewhere", PIP_USER="1", PIP_INDEX_URL="kept")
    assert pip.try_install(["x"])
    text = pip.log.read_text()
    assert "PYTHONPATH" not in text
    assert "PIP_USER" not in text
    assert "PIP_INDEX_URL=kept" in text, "the user's own index stays"
