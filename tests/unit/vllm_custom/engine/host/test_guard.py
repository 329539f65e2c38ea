"""What is above an engine's host removes the folder of that engine, and of no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vllm_custom.engine.host import guard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "all" / "engine"
    made.mkdir(parents=True)
    return made


def test_the_folder_of_an_engine_goes_with_it_and_the_last_one_takes_the_folder_of_all(folder: Path) -> None:
    word = guard.mark(folder)
    (folder / "board").touch()
    guard.remove(folder, word)
    assert not folder.parent.exists()
    guard.remove(folder, word)


def test_the_folder_of_the_engine_that_was_started_again_stays(folder: Path) -> None:
    """The old host may take seconds to end; on ext4 the new folder has the inode of the old one."""
    word = guard.mark(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    guard.mark(folder)
    guard.remove(folder, word)
    assert folder.exists()
