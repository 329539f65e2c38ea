"""The folder of an engine: where its fronts find its host, and what it is known by.

All of them are below one folder of this user. A lock on that decides who makes or removes one of them; it lasts for
milliseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from vllm_custom.engine.host import guard
from vllm_custom.errors import ConfigError

CONTROL = "control"
BOARD = "board"
_NAME = "name"
_NAME_CHARACTERS = 10
_DIGEST_CHARACTERS = 10
# A Unix socket's address has 107 characters. vLLM's own sockets have 36, in a folder of a name, a version and a digest.
_MAX_PARENT_CHARACTERS = 107 - 37 - (_NAME_CHARACTERS + _DIGEST_CHARACTERS + 8)


@dataclass(frozen=True)
class EngineName:
    """What makes two fronts share an engine.

    Attributes:
        model: its name.
        version: of the model.
        devices: of the instances, as Triton names them.
        server: process id of tritonserver.
        files: what the engine is started from; see :func:`fingerprint`.
    """

    model: str
    version: str
    devices: str
    server: int
    files: str

    @property
    def folder(self) -> str:
        """The name of its folder."""
        born = started_at(self.server)
        parts = (self.model, self.version, self.devices, str(self.server), born, self.files)
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGEST_CHARACTERS]
        readable = re.sub(r"[^\w.-]", "_", self.model)[:_NAME_CHARACTERS]
        return f"{readable}-{self.version}-{digest}"


class _Note(msgspec.Struct):
    """``born``: when the server of the engine started, whose process id may be used again."""

    name: EngineName
    born: str


def note(folder: Path, name: EngineName) -> None:
    """Leave the name of the engine in its folder. Raises OSError where there is none."""
    (folder / _NAME).write_bytes(msgspec.json.encode(_Note(name, started_at(name.server))))


def others(name: EngineName) -> list[Path]:
    """Folders of engines that differ from this one in their files alone."""
    found = []
    born = started_at(name.server)
    with contextlib.suppress(OSError):
        for folder in runtime_folder(make=False).iterdir():
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                noted = msgspec.json.decode((folder / _NAME).read_bytes(), type=_Note)
                is_other = noted.name != name and replace(noted.name, files=name.files) == name
                if is_other and noted.born == born:
                    found.append(folder)
    return found


def started_at(process: int) -> str:
    """When ``process`` started, in the kernel's unit, as a process id may be used again; empty once it has ended."""
    state, *values = _stat(process)
    return "" if state in ("", "Z", "X") else values[18]


def is_below(process: int, other: int) -> bool:
    """Whether ``other`` is this process, or has started it, or what has started that, and so on."""
    while process != other:
        state, *values = _stat(process)
        if not state or process <= 1:
            return False
        process = int(values[0])
    return True


def _stat(process: int) -> list[str]:
    """What the kernel says of a process, from its state on; one empty text where there is none of this id."""
    with contextlib.suppress(OSError):
        # The name stands in brackets and may itself hold brackets and spaces.
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split() or [""]
    return [""]


def fingerprint(texts: list[str], folders: list[Path]) -> str:
    """Of texts, and of the files in folders by name, size and time of change: another one, and it is another engine."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    for folder in folders:
        with contextlib.suppress(OSError):  # gone while we looked: the engine will say so
            for path in sorted(folder.iterdir()):
                state = path.stat()
                digest.update(f"{path.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def runtime_folder(*, make: bool = True) -> Path:
    """The folder of all engines of this user, in TMPDIR, or in /tmp if its path is too long.

    Args:
        make: it where it is missing.

    Raises:
        ConfigError: it is not this user's alone.
        OSError: it is missing, and not to be made.
    """
    name = f"vllm_custom_{os.geteuid()}"
    folder = Path(tempfile.gettempdir(), name)
    if len(str(folder)) > _MAX_PARENT_CHARACTERS:
        folder = Path("/tmp", name)  # noqa: S108 - of this user alone, as is looked at below
    if make:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    state = folder.lstat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o170777 != 0o40700:
        raise ConfigError(f"the temporary folder (TMPDIR): expected {name} in it to be a folder of mode 0700")
    return folder


@contextlib.contextmanager
def locked() -> Iterator[Path]:
    """:func:`runtime_folder`, in which no other process makes or removes a folder meanwhile."""
    with contextlib.ExitStack() as stack:
        while True:
            folder = runtime_folder()
            with contextlib.suppress(FileNotFoundError):  # its last engine has gone with it; it is made again
                stack.enter_context(guard.locked(folder))
                break
        yield folder
