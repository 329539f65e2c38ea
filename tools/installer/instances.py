"""The processes in which tritonserver runs Python models, one for each instance, and which of them have been killed."""

from dataclasses import dataclass
from pathlib import Path

from tools.installer import processes
from tools.installer.triton_tree import STUB

# After the program itself: where model.py would be, a shared memory region with its sizes, tritonserver, a folder, a
# handle, the name, and the folder of the backend.
_MODEL, _NAME, _BACKEND = 1, 8, 9


@dataclass(frozen=True)
class Instance:
    """One of a model. ``folder`` has the model's config.pbtxt."""

    name: str
    model: str
    folder: Path


class Instances:
    """Those of one tritonserver whose backend is ``backend``.

    Triton before 26.01 takes no notice of such a process that ends before it is to, and so it stays a zombie. Later
    ones wait for it when they are asked whether the model is ready, as they do at the end of a model.
    """

    def __init__(self, server: int, backend: str = "vllm_custom") -> None:
        """``server``: the process id of tritonserver."""
        self._server = server
        self._backend = backend
        self._known: dict[processes.Process, Instance] = {}
        self._ended: set[processes.Process] = set()
        self._gone: dict[processes.Process, Instance] = {}
        self._forgotten: set[processes.Process] = set()

    def lost(self) -> dict[processes.Process, Instance]:
        """Which have been killed and not been waited for.

        One that has just ended is told the next time: it may be waited for, as at the end of a model.
        """
        children = {child for child in processes.snapshot().values() if child.parent == self._server}
        self._gone |= {
            process: instance
            for process, instance in self._known.items()
            if process not in children and process not in self._forgotten
        }
        self._forgotten &= children
        children -= self._forgotten
        self._known = {child: instance for child, instance in self._known.items() if child in children}
        for child in children - self._known.keys():
            if instance := _read(child.pid, self._backend):
                self._known[child] = instance
        zombies = {child for child in children if child.state == "Z" and child in self._known}
        lost = {child: self._known[child] for child in zombies & self._ended}
        self._ended = zombies
        return lost

    def gone(self) -> dict[processes.Process, Instance]:
        """Which have ended and were waited for: because they were to end, or because they were killed."""
        return dict(self._gone)

    def alive(self, model: str) -> int:
        """How many of a model there were at the last look."""
        return sum(
            1 for process, instance in self._known.items() if instance.model == model and process not in self._ended
        )

    def of(self, model: str) -> set[processes.Process]:
        """Those of a model, alive or killed, as far as they were there at the last look."""
        return {process for process, instance in self._known.items() if instance.model == model}

    def forget(self, these: set[processes.Process]) -> None:
        """They are not missed any more."""
        self._forgotten |= these
        for process in these:
            self._gone.pop(process, None)


def _read(pid: int, backend: str) -> Instance | None:
    """None where the process is none, or has ended."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if Path(arguments[0]).name != STUB or len(arguments) <= _BACKEND or Path(arguments[_BACKEND]).name != backend:
        return None
    folder = Path(arguments[_MODEL]).parent.parent
    if arguments[_NAME] == folder.name:  # it completes the configuration, and ends then
        return None
    return Instance(arguments[_NAME], folder.name, folder)
