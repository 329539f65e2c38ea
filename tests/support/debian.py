"""Programs of Debian's packages: those that are installed, else unpacked into the cache, without root."""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tools.installer.paths import home

_SECONDS = 120.0
_UNPACKED = Path("usr/bin")
_OPTIONS = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "-o", "APT::Sandbox::User=root")


class UnavailableError(Exception):
    """Why a program is not there."""


def programs(package: str, *names: str, seconds: float = _SECONDS) -> list[str]:
    """The paths of ``names``, which ``package`` has and which need no library but the system's.

    The package is fetched once, by the process that is first; the others wait for it.

    Raises:
        UnavailableError: they are neither installed nor could be fetched within ``seconds``.
    """
    installed = [path for path in map(shutil.which, names) if path]
    if len(installed) == len(names):
        return installed
    missing = [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]
    if missing:
        raise UnavailableError(f"{package} is not installed, and there is no {missing[0]} to fetch it with")
    folder = home() / "packages" / f"{package}-{_system()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(package, folder, time.monotonic() + seconds)
    found = [folder / _UNPACKED / name for name in names]
    if absent := [path.name for path in found if not path.exists()]:
        raise UnavailableError(f"the package {package} has no {absent[0]}")
    return [str(path) for path in found]


def _system() -> str:
    """Where the cache is on a disk that several machines share, each needs its own."""
    release = platform.freedesktop_os_release()
    return f"{release['ID']}-{release.get('VERSION_ID', '')}-{platform.machine()}"


def _fetch(package: str, folder: Path, until: float) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        download, unpacked = Path(scratch, "download"), Path(scratch, "unpacked")
        download.mkdir()
        try:
            _run(["apt-get", *_OPTIONS, "download", package], download, until)
        except UnavailableError:  # images come without lists of packages, and old lists name files that are gone
            lists = Path(scratch, "lists")
            (lists / "partial").mkdir(parents=True)
            options = [*_OPTIONS, "-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={scratch}"]
            _run(["apt-get", *options, "update"], download, until)
            _run(["apt-get", *options, "download", package], download, until)
        (archive,) = download.glob("*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(unpacked)], download, until)
        unpacked.rename(folder)


def _run(command: list[str], folder: Path, until: float) -> None:
    """Raises UnavailableError with the last line of what the command said."""
    left = max(0.0, until - time.monotonic())
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(command, cwd=folder, stdout=said, stderr=said, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{command[0]} took too long") from None
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {lines[-1] if lines else done.returncode}")
