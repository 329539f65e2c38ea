"""LoRA adapters by name, each version of each under an id of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from vllm_custom.engine.protocol import Adapter, Engine
from vllm_custom.errors import InvalidRequestError, NotFoundError, UnavailableError
from vllm_custom.kernel import official_texts
from vllm_custom.lora.folder import FoundAdapter, LoraFolder
from vllm_custom.observability.requests import note_adapter

_MAX_REASON_CHARACTERS = 300
_ABSOLUTE_PATH = re.compile(r"(?<![\w.])/[\w.@+~-]+(?:/[\w.@+~-]*)+")


# The number of a key, the same for all who ask for it, and not below a bound.
Numbers: TypeAlias = Callable[[str, int], Awaitable[int]]


@dataclass(eq=False)
class _Version:
    """One adapter with one set of weights.

    Attributes:
        engine_name: what the engine knows it by. It takes part in the keys of the engine's caches, so that of an
            adapter which can be replaced holds the id.
        copy: number of its copy in this process: the same weights may come back under the same id.
        path: where its weights are; empty until they have been taken from the folder.
        users: requests that hold it.
        found: where it comes from, or None for multi_lora.json.
    """

    name: str
    number: int
    engine_name: str
    copy: int = 0
    path: str = ""
    found: FoundAdapter | None = None
    users: int = 0
    retired: bool = False
    loaded: bool = False
    loading: asyncio.Task[None] | None = None

    @property
    def adapter(self) -> Adapter:
        """What the engine is asked for."""
        return Adapter(self.engine_name, self.number, self.path)


class LoraAdapters:
    """The adapters of one engine. To be used on its event loop."""

    def __init__(
        self,
        engine: Engine,
        paths: Mapping[str, str],
        *,
        enabled: bool,
        folder: LoraFolder | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        """
        Args:
            engine: loads them.
            paths: adapter name to folder of multi_lora.json, in the order of the ids that the official backend gives
                them. They win over adapters of the same name in ``folder``.
            enabled: whether the engine runs with enable_lora.
            folder: LORA_DIR.
            numbers: of adapters in all processes that use this engine; None where this is the only one.
        """
        self._engine = engine
        self._enabled = enabled
        self._folder = folder
        self._fixed = {
            name: _Version(name, number, engine_name=name, path=path)
            for number, (name, path) in enumerate(paths.items(), 1)
        }
        self._numbers = numbers
        self._own_numbers = itertools.count(len(self._fixed) + 1)
        self._first_number = self._highest = len(self._fixed) + 1
        self._current: dict[str, _Version] = {}
        self._cleaning: set[asyncio.Task[None]] = set()

    async def names(self) -> list[str]:
        """All adapters of this model, those of multi_lora.json first."""
        if not self._enabled:
            return []
        found = await self._folder.adapters() if self._folder is not None else {}
        return list(dict.fromkeys([*self._fixed, *found]))

    async def check(self, name: str | None) -> None:
        """Refuse an adapter that is not there.

        Raises:
            InvalidRequestError: the model runs without LoRA.
            NotFoundError: no adapter of that name; the message lists those there are.
        """
        if name is not None:
            await self._version(name)

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Adapter | None]:
        """The adapter ``name`` as the engine knows it, its weights loaded and kept meanwhile; None for None.

        The first use loads the adapter by itself: a broken one that first shows up inside ``generate`` would end
        the engine for everybody.

        Raises:
            NotFoundError, InvalidRequestError: as ``check``, or the engine cannot load it.
            UnavailableError: it is being replaced at this moment.
        """
        if name is None:
            yield None
            return
        version = await self._version(name)
        note_adapter(name)
        version.users += 1
        try:
            await self._load(version)
            yield version.adapter
        finally:
            version.users -= 1
            self._clean_up(version)

    def engine_restarted(self) -> None:
        """The engine is another one, which has no adapter yet: each is loaded again at its next use."""
        self._first_number = self._highest + 1  # requests may still hold those that the old engine had
        for version in (*self._fixed.values(), *self._current.values()):
            version.loaded, version.loading = False, None
        current, self._current = self._current, {}
        for version in current.values():
            version.retired = True
            self._clean_up(version)

    def close(self) -> None:
        """Remove what was copied. The engine must have stopped."""
        if self._folder is not None:
            self._folder.close()

    async def _version(self, name: str) -> _Version:
        if not self._enabled:
            raise InvalidRequestError(official_texts.NO_ADAPTERS)
        if name in self._fixed:
            return self._fixed[name]
        found = await self._folder.adapters() if self._folder is not None else {}
        self._retire_changed(found)
        if name not in found:
            raise NotFoundError(official_texts.unknown_adapter(name, {*self._fixed, *found}))
        if name not in self._current:
            copy = next(self._own_numbers)
            number = copy
            if self._numbers is not None:  # the same id in each process that finds the same files
                number = await self._numbers(f"{name}@{found[name].fingerprint}", self._first_number)
            self._highest = max(self._highest, number)
            version = _Version(name, number, engine_name=f"{name}@{number}", copy=copy, found=found[name])
            return self._current.setdefault(name, version)  # another request may have asked meanwhile
        return self._current[name]

    def _retire_changed(self, found: Mapping[str, FoundAdapter]) -> None:
        for name, version in list(self._current.items()):
            if found.get(name) != version.found:
                del self._current[name]
                version.retired = True
                self._clean_up(version)

    async def _load(self, version: _Version) -> None:
        """Load once for all requests that wait for it; one that is cancelled does not stop the others' load."""
        task = version.loading
        if task is None or (task.done() and not version.loaded):
            task = version.loading = asyncio.ensure_future(self._load_now(version))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)

    async def _load_now(self, version: _Version) -> None:
        if version.found is not None and self._folder is not None:
            version.path = await self._folder.take(version.found, version.copy)
        await self._add(version)
        version.loaded = True

    async def _add(self, version: _Version) -> None:
        try:
            await self._engine.load_adapter(version.adapter)
        except Exception as error:
            if isinstance(explained := self._engine.explain(error), UnavailableError):
                raise explained from error
            raise InvalidRequestError(
                f"lora_name: the adapter {version.name!r} cannot be loaded by this engine: {_reason(error, version)}"
            ) from error

    def _clean_up(self, version: _Version) -> None:
        """Forget a version that is gone from the folder once no request holds it."""
        if version.retired and version.users == 0:
            task = asyncio.ensure_future(self._forget(version))
            self._cleaning.add(task)
            task.add_done_callback(self._cleaning.discard)

    async def _forget(self, version: _Version) -> None:
        if version.loading is not None:
            await asyncio.wait([version.loading])
        if version.loaded:
            with contextlib.suppress(Exception):  # evicted by the engine itself, or the engine has died
                await self._engine.remove_adapter(version.number)
        if self._folder is not None:
            await self._folder.drop(version.copy)


def _reason(error: Exception, version: _Version) -> str:
    """The end of the engine's message, which is what went wrong, without paths of this machine."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _ABSOLUTE_PATH.sub("...", text.replace(version.path, version.name))[-_MAX_REASON_CHARACTERS:]
