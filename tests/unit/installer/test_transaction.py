"""`install --into` and `--uninstall`, killed at each file operation: repeated or undone, they leave nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.triton_tree import snapshot
from tools.installer import backends, into, target, transaction
from tools.installer.checks import Check, Status
from tools.installer.console import BuildError
from tools.installer.into import InstallOptions

_OPERATIONS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.utime")
_KILLED = -signal.SIGKILL


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Triton whose checks all pass; what is installed are three small files that say VERSION."""
    folder = tmp_path / "tritonserver"
    (folder / "backends/vllm").mkdir(parents=True)
    (folder / "backends/vllm/model.py").write_text("official")

    def copy_source(name: str, staging: Path) -> None:
        (staging / name / "inside").mkdir(parents=True)
        for file in ("model.py", "inside/a.py", "inside/b.py"):
            (staging / name / file).write_text(os.environ["VERSION"])

    monkeypatch.setenv("VERSION", "1")
    monkeypatch.setattr(backends, "copy_source", copy_source)
    monkeypatch.setattr(target, "ask", lambda python: target.Interpreter(python, "3.11.7", {}))
    monkeypatch.setattr(target, "examine", lambda *_: [Check("all", Status.OK, "well")])
    monkeypatch.setattr(into, "_facts", lambda *_: {"version": os.environ["VERSION"]})
    return folder


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Without times: that of the folder is lost where a process is killed between its last two operations."""
    return {name: (mode, content) for name, (mode, _, content) in snapshot(root).items()}


def install(root: Path) -> None:
    assert into.install(InstallOptions(root), lambda text: None) == 0


def uninstall(root: Path) -> None:
    assert into.uninstall(InstallOptions(root), lambda text: None) == 0


def undo(root: Path) -> None:
    """Uninstall what may not be there."""
    with contextlib.suppress(BuildError):  # there is nothing; what lies there is compared afterwards
        uninstall(root)


def killed_at(number: int, act: Callable[[], object], root: Path) -> int:
    """What ``act`` ends with in a process that kills itself before its ``number``-th file operation below ``root``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        left = number

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (writes or event in _OPERATIONS) and str(root) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("begun", ["install", "reinstall", "uninstall"])
def test_killed_at_each_operation_it_can_be_repeated_and_undone(
    root: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """A kill while folders were removed left an installation that could be neither repeated nor undone."""
    bare = contents(root)
    if begun != "install":
        install(root)
    monkeypatch.setenv("VERSION", "2")
    act = uninstall if begun == "uninstall" else install
    for number in range(1, 1000):
        tries = [shutil.copytree(root, root.with_name(f"{way}{number}"), symlinks=True) for way in ("again", "undo")]
        ended = [killed_at(number, lambda folder=folder: act(folder), folder) for folder in tries]
        assert set(ended) in ({_KILLED}, {0})
        again, undone = tries
        if ended[0] == _KILLED:
            (undo if begun == "uninstall" else install)(again)
        if begun == "uninstall":
            assert contents(again) == bare, number
        else:
            assert (again / "backends/vllm_custom/model.py").read_text() == "2"
            assert sorted(path.name for path in (again / "backends").iterdir()) == ["vllm", "vllm_custom"], number
            uninstall(again)
            assert contents(again) == bare, number
        if begun == "uninstall":
            install(undone)
        undo(undone)
        assert contents(undone) == bare, number
        if ended[0] == 0:
            break
    assert number > 10


def test_a_run_that_was_stopped_is_told_by_a_dry_run(root: Path) -> None:
    assert killed_at(5, lambda: install(root), root) == _KILLED
    before = snapshot(root)
    said: list[str] = []
    assert into.install(InstallOptions(root, dry_run=True), said.append) == 0
    assert said[0].startswith("an earlier run was stopped in the middle")
    assert into.uninstall(InstallOptions(root, dry_run=True), said.append) == 0
    assert snapshot(root) == before


def test_two_at_a_time_are_refused(root: Path) -> None:
    with transaction.locked(root / "backends"), pytest.raises(BuildError, match="another installation is under way"):
        install(root)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"folders": ["vllm_custom", "../x"], "files": {}, "backends_mtime_ns": 1}']
)
def test_a_damaged_list_says_what_to_remove(root: Path, text: str) -> None:
    install(root)
    (root / "backends/vllm_custom/version.json").write_text(text)
    for act in (install, uninstall):
        with pytest.raises(BuildError, match="is damaged") as caught:
            act(root)
        assert f"remove {root}/backends/vllm_custom by hand" in caught.value.fix
    shutil.rmtree(root / "backends/vllm_custom")
    install(root)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_taken_for_an_installation(root: Path, tmp_path: Path, exists: bool) -> None:
    install(root)
    (root / "backends/vllm_custom").rename(tmp_path / "moved")
    (root / "backends/vllm_custom").symlink_to(tmp_path / ("moved" if exists else "nowhere"))
    for dry_run in (True, False):
        with pytest.raises(BuildError, match="vllm_custom is a link"):
            into.install(InstallOptions(root, dry_run=dry_run), lambda text: None)


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda path: ReadOnly() if "backends" in str(path) else real(path))


def not_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))


@pytest.mark.parametrize(
    ("spoil", "problem", "fix"),
    [
        (read_only, "Read-only file system", "mount it for writing"),
        (not_mine, "Permission denied", "run this as a user who may change it"),
        (full, "No space left on device", "free some space"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_folder_that_cannot_be_changed_is_told_before_anything(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    problem: str,
    fix: str,
    dry_run: bool,
) -> None:
    install(root)
    before = snapshot(root)
    spoil(monkeypatch)
    said: list[str] = []
    assert into.install(InstallOptions(root, dry_run=dry_run), said.append) == 1
    assert problem in said[0]
    assert fix in said[0]
    if spoil is not full:  # to take away needs no room
        with pytest.raises(BuildError, match=problem):
            into.uninstall(InstallOptions(root, dry_run=dry_run), lambda text: None)
    assert snapshot(root) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_errors_in_the_middle_are_short_and_say_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full disk gave 5 kB of text, as copying collects what happened to each file."""

    def copy(name: str, staging: Path) -> None:
        reason = str(OSError(number, os.strerror(number)))
        raise shutil.Error([(f"from{index}", f"to{index}", reason) for index in range(100)])

    before = snapshot(root)
    monkeypatch.setattr(backends, "copy_source", copy)
    with pytest.raises(BuildError, match=os.strerror(number)) as caught:
        install(root)
    assert len(str(caught.value)) < 300
    assert caught.value.fix != ""
    assert snapshot(root) == before


def test_a_program_that_is_no_python(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(BuildError, match="is not a Python interpreter"):
        target.ask("/bin/true")
    with pytest.raises(BuildError, match="does not run"):
        target.ask("/bin/false")


def test_the_list_is_what_was_installed(root: Path) -> None:
    install(root)
    written = json.loads((root / "backends/vllm_custom/version.json").read_text())
    assert sorted(written["files"]) == [f"vllm_custom/{name}" for name in ("inside/a.py", "inside/b.py", "model.py")]
