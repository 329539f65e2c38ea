"""Copies of adapters, and sockets, do not stay behind: not even where the process that made them was killed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_custom
from vllm_custom.kernel.owned_folders import SOCKETS, OwnedFolder, remove_abandoned
from vllm_custom.lora.folder import LoraFolder

OWNER = """
import sys
from vllm_custom.kernel.owned_folders import OwnedFolder
folder = OwnedFolder()
(folder.path / "1").mkdir()
(folder.path / "1" / "adapter_model.safetensors").write_bytes(b"weights")
print(folder.path, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(temporary: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Another process with a folder of its own."""
    env = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(vllm_custom.__file__).parents[1])}
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_killed_process_leaves_nothing_after_the_next_start(
    owner: tuple["subprocess.Popen[str]", Path], temporary: Path
) -> None:
    process, folder = owner
    assert remove_abandoned() == 0
    assert (folder / "1" / "adapter_model.safetensors").is_file()
    process.kill()
    process.wait()
    mine = LoraFolder(temporary / "adapters")
    assert not folder.exists()
    mine.close()
    assert list(temporary.iterdir()) == []


def test_a_folder_of_this_process_stays_until_it_is_closed(temporary: Path) -> None:
    first, second = OwnedFolder(), OwnedFolder()
    assert remove_abandoned() == 0
    assert first.path.stat().st_mode & 0o777 == 0o700
    first.close()
    first.close()
    assert list(temporary.iterdir()) == [second.path]
    second.close()


def test_one_whose_path_would_be_too_long_for_sockets_is_elsewhere(temporary: Path) -> None:
    near = OwnedFolder(SOCKETS, longest=len(str(temporary)) + len("/vllm_custom_sockets_12345678"))
    far = OwnedFolder(SOCKETS, longest=len(str(temporary)))
    assert (near.path.parent, far.path.parent) == (temporary, Path("/tmp"))
    os.close(far._descriptor)  # as if its process were gone
    assert remove_abandoned() >= 1
    assert not far.path.exists()
    near.close()
    assert list(temporary.iterdir()) == []


def test_what_is_not_ours_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (temporary / "vllm_custom_lora_link").symlink_to(elsewhere)
    (temporary / "vllm_custom_lora_file").write_text("")
    (temporary / "vllm_custom_new_x").mkdir()
    assert remove_abandoned() == 0
    (temporary / "vllm_custom_lora_other").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert remove_abandoned() == 0
    assert len(list(temporary.iterdir())) == 5
    assert remove_abandoned() == 1


def test_a_model_starts_where_the_file_system_has_no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("vllm_custom.kernel.owned_folders.fcntl.flock", refuse)
    folder = OwnedFolder()
    assert remove_abandoned() == 0
    assert folder.path.is_dir()
    folder.close()
