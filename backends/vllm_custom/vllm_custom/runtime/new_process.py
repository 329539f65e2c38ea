"""What a process that multiprocessing starts does first."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from typing import Any


class WithoutCollections:
    """A function for a new process, in which no garbage is collected until it begins.

    A spawned process imports what the function needs when it unpickles it, and that takes a quarter longer with
    collections. A forked one has inherited whether there are any.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        """``function``: of a module, by which another process finds it."""
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        gc.enable()
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[bytes], WithoutCollections], tuple[bytes]]:
        return _unpickled, (pickle.dumps(self._function),)


def _unpickled(function: bytes) -> WithoutCollections:
    gc.disable()
    return WithoutCollections(pickle.loads(function))  # noqa: S301 - of the process that started this one
