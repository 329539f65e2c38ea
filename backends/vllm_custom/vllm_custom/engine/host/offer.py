"""What an instance that is ready leaves in the engine's folder, for guests: fronts that Triton knows nothing of.

A guest serves the same model by the same rules, so it gets what the instance was made from. The host takes the offer
back when the last instance has gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vllm_custom.engine.host import folders

GUESTS_VARIABLE = "VLLM_CUSTOM_OPENAI_DIRECT"
_OFFER, _CONFIG = "offer", "config"


class Offer(msgspec.Struct, frozen=True):
    """A model that guests may serve.

    Attributes:
        model: its name.
        version: of the model.
        server: process id of tritonserver.
        clients: how many fronts the engine is to have, guests included.
        model_config: of Triton, as JSON.
        version_dir: the folder of model.json.
        backend_dir: of this backend.
        release: of the vLLM backend that the instance builds on; None where it is unknown.
    """

    model: str
    version: str
    server: int
    clients: int
    model_config: str
    version_dir: str
    backend_dir: str
    release: str | None


def guests_announced() -> int:
    """How many guests each model of this server is to have, as the command that started the server says."""
    text = os.environ.get(GUESTS_VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def leave_config(folder: Path, config: bytes) -> None:
    """Leave the configuration that the engine runs with, pickled by vLLM's means. Before the offer."""
    _write(folder / _CONFIG, config)


def config_of(folder: Path) -> bytes:
    """The counterpart of :func:`leave_config`. Raises OSError where there is none."""
    return (folder / _CONFIG).read_bytes()


def offer(folder: Path, made: Offer) -> None:
    """Make the offer, in place of an earlier one."""
    _write(folder / _OFFER, msgspec.json.encode(made))


def withdraw(folder: Path) -> None:
    """No guest is to come any more, and those that have come are to leave."""
    with contextlib.suppress(OSError):
        (folder / _OFFER).unlink()


def offer_of(folder: Path) -> Offer | None:
    """The offer of the engine in ``folder``; None where there is none."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / _OFFER).read_bytes(), type=Offer)
    return None


def offers(server: int | None = None) -> Iterator[tuple[Path, Offer]]:
    """All offers of this user by the folders of their engines.

    Args:
        server: of the tritonserver of this process id only, or of those that this process has started.
    """
    with contextlib.suppress(OSError):
        for folder in sorted(folders.runtime_folder(make=False).iterdir()):
            found = offer_of(folder)
            if found is not None and (server is None or folders.is_below(found.server, server)):
                yield folder, found


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, for those that read it meanwhile."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(content)
    unfinished.rename(path)
