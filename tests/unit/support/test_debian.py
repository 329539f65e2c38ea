"""Programs of packages: installed, fetched once, or a reason why not. apt-get and dpkg-deb are scripts."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import debian

DOWNLOADS = 'echo x >> "$COUNT"; touch tool_1_all.deb'
UNPACKS = 'mkdir -p "$3/usr/bin"; touch "$3/usr/bin/tool"'


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH, with what the scripts themselves need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "mkdir", "touch", "sleep"):
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("VLLM_CUSTOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    return folder


def script(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!{folder / 'bash'}\n{text}\n")
    file.chmod(0o755)


def test_a_program_that_is_installed_is_taken(path: Path) -> None:
    script(path, "tool", "true")
    assert debian.programs("package", "tool") == [str(path / "tool")]


def test_a_package_is_fetched_once(path: Path, tmp_path: Path) -> None:
    script(path, "apt-get", DOWNLOADS)
    script(path, "dpkg-deb", UNPACKS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: debian.programs("package", "tool"), range(4)))
    assert len({tuple(each) for each in found}) == 1
    assert Path(found[0][0]).is_file()
    assert (tmp_path / "count").read_text() == "x\n"


def test_lists_of_packages_are_fetched_where_there_are_none(path: Path, tmp_path: Path) -> None:
    updates = "*Dir::State*update) touch updated"
    downloads = "*Dir::State*download*) [ -e updated ] && touch tool_1_all.deb"
    script(path, "apt-get", f'case "$*" in {updates};; {downloads};; *) exit 100; esac')
    script(path, "dpkg-deb", UNPACKS)
    assert Path(debian.programs("package", "tool")[0]).is_file()


@pytest.mark.parametrize(
    ("scripts", "reason"),
    [
        ({}, "no apt-get"),
        ({"apt-get": DOWNLOADS}, "no dpkg-deb"),
        ({"apt-get": "echo 'E: no network' >&2; exit 100", "dpkg-deb": UNPACKS}, "apt-get failed: E: no network"),
        ({"apt-get": "exit 7", "dpkg-deb": UNPACKS}, "apt-get failed: 7"),
        ({"apt-get": "exec sleep 60", "dpkg-deb": UNPACKS}, "apt-get took too long"),
        ({"apt-get": DOWNLOADS, "dpkg-deb": "exit 2"}, "dpkg-deb failed: 2"),
        ({"apt-get": DOWNLOADS, "dpkg-deb": 'mkdir -p "$3"'}, "the package package has no tool"),
    ],
)
def test_the_reason_is_told_where_there_is_none(scripts: dict[str, str], reason: str, path: Path) -> None:
    for name, text in scripts.items():
        script(path, name, text)
    with pytest.raises(debian.UnavailableError, match=reason):
        debian.programs("package", "tool", seconds=1.0 if "sleep" in scripts.get("apt-get", "") else 60.0)
