"""A server that was built without ensembles is named before it is started with some."""

from pathlib import Path

import pytest

from tools.installer import ensembles

SCHEDULER = b"\x00N6triton4core17EnsembleSchedulerE\x00"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """tritonserver of an installation without them, and a repository with one."""
    for folder in ("server/bin", "server/lib", "server/backends", "models/pipeline/1", "models/plain/1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "server/bin/tritonserver").touch()
    (tmp_path / "server/lib/libtritonserver.so").write_bytes(b"no scheduler of that kind")
    (tmp_path / "models/pipeline/config.pbtxt").write_text('# a pipeline\nplatform: "ensemble"\n')
    (tmp_path / "models/plain/config.pbtxt").write_text('backend: "vllm_custom"  # platform: "ensemble"\n')
    return [str(tmp_path / "server/bin/tritonserver"), f"--model-repository={tmp_path / 'models'}"]


def test_the_model_and_what_to_do_are_named(command: list[str]) -> None:
    said = ensembles.refusal(command)
    assert said is not None
    assert said.startswith("ensembles (pipeline): this server was built without them")
    assert "24.10 or later" in said


def test_a_program_is_looked_for_as_the_shell_does(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(command[0])
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert ensembles.refusal([program.name, *command[1:]]) is not None


def test_a_server_that_has_them_is_started_in_silence(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "server/lib/libtritonserver.so").write_bytes(SCHEDULER)
    assert ensembles.refusal(command) is None


def test_a_repository_without_one(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "models/pipeline/config.pbtxt").write_text('backend: "python"\n')
    assert ensembles.refusal(command) is None


def test_what_cannot_be_read_is_tritonservers_to_say(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "models/pipeline/config.pbtxt").unlink()
    (tmp_path / "models/pipeline/config.pbtxt").mkdir()
    assert ensembles.refusal(command) is None


def test_a_program_of_no_installation_is_not_judged(command: list[str]) -> None:
    assert ensembles.refusal(["/bin/true", *command[1:]]) is None
