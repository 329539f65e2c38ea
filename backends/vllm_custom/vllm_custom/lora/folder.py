"""LORA_DIR: what adapters it holds now, and copies of them that stay as they are."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vllm_custom.errors import UnavailableError
from vllm_custom.kernel.owned_folders import OwnedFolder, remove_abandoned

_CONFIG_FILE = "adapter_config.json"
# What vLLM reads of an adapter; training leaves much else next to it.
_ADAPTER_FILES = ("adapter_*", "new_embeddings.*")
_MAX_AGE_SECONDS = 1.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

# Name, size, time of change and inode of each file: another one, and the weights are others.
Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter as it was when the folder was looked at."""

    name: str
    path: Path
    fingerprint: Fingerprint


class LoraFolder:
    """Looks at the folder, off the event loop, at most about once a second."""

    def __init__(self, folder: Path, *, copies: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Also removes what processes that were killed have left of theirs.

        Args:
            folder: LORA_DIR.
            copies: give the engine a copy of an adapter in place of the folder itself. The engine may read an adapter
                again long after its first use, and what it cannot read then ends it for everybody.
            clock: seconds.
        """
        self._folder = folder
        self._clock = clock
        self._lock = asyncio.Lock()
        self._found: Mapping[str, FoundAdapter] = {}
        self._looked_at: float | None = None
        remove_abandoned()
        self._owned = OwnedFolder() if copies else None

    async def adapters(self) -> Mapping[str, FoundAdapter]:
        """The adapters by name; not older than a second."""
        async with self._lock:
            if self._looked_at is None or self._clock() - self._looked_at >= _MAX_AGE_SECONDS:
                self._found = await asyncio.to_thread(scan, self._folder)
                self._looked_at = self._clock()
            return self._found

    async def take(self, adapter: FoundAdapter, number: int) -> str:
        """The path from which the engine may load ``adapter``, of which this is copy ``number``.

        Raises:
            UnavailableError: the adapter's files changed while they were copied.
        """
        if self._owned is None:
            return str(adapter.path)
        target = self._owned.path / str(number)
        await asyncio.to_thread(_copy, adapter, target)
        return str(target)

    async def drop(self, number: int) -> None:
        """The engine will not ask for this copy again."""
        if self._owned is not None:
            await asyncio.to_thread(shutil.rmtree, self._owned.path / str(number), ignore_errors=True)

    def close(self) -> None:
        """Remove all copies. Blocks."""
        if self._owned is not None:
            self._owned.close()


def scan(folder: Path) -> dict[str, FoundAdapter]:
    """The adapters in ``folder`` by name: its subfolders that hold an adapter_config.json. Blocks."""
    found: dict[str, FoundAdapter] = {}
    with contextlib.suppress(OSError):  # a folder that is not there holds none
        for path in sorted(folder.iterdir()):
            with contextlib.suppress(OSError):  # gone while we looked
                if not path.name.startswith(".") and (path / _CONFIG_FILE).is_file():
                    found[path.name] = FoundAdapter(path.name, path, _fingerprint(path))
    return found


def _files(path: Path) -> Iterator[Path]:
    return (file for pattern in _ADAPTER_FILES for file in sorted(path.glob(pattern)) if file.is_file())


def _fingerprint(path: Path) -> Fingerprint:
    states = ((file.name, file.stat()) for file in _files(path))
    return tuple((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states)


def _copy(adapter: FoundAdapter, target: Path) -> None:
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file in _files(adapter.path):
            shutil.copyfile(file, target / file.name)
        unchanged = _fingerprint(adapter.path) == adapter.fingerprint
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)  # on a full disk a part of a copy takes what is left
        what = "copied: the server has no space" if error.errno in _NO_SPACE else "read"
        raise UnavailableError(f"lora_name: the adapter {adapter.name!r} cannot be {what} now; try again") from error
    if not unchanged:
        raise UnavailableError(f"lora_name: the adapter {adapter.name!r} is being replaced; try again")
