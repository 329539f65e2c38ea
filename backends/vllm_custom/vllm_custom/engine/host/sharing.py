"""Which instances share an engine, and what one of them has in common with the others."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vllm_custom.engine.host import folders
from vllm_custom.engine.host.board import CACHE_BYTES, DECODED_BYTES, FILE_BYTES, SEQUENCES, Board, Row
from vllm_custom.engine.host.connection import Connection, HostLostError
from vllm_custom.engine.host.messages import Fronts, Numbered
from vllm_custom.engine.host.newest import Newest
from vllm_custom.errors import ConfigError, UnavailableError
from vllm_custom.kernel import devices

_STARTED_FROM = ("model.json", "multi_lora.json")


def fronts_of(model_config: Mapping[str, Any], args: Mapping[str, str]) -> int:
    """How many instances of the model there are to be on the devices of this one.

    Args:
        model_config: of Triton.
        args: of Triton's ``initialize``.
    """
    return devices.sharers(model_config, args)


def engine_name(
    model_config: Mapping[str, Any], args: Mapping[str, str], version_dir: Path, *others: str
) -> folders.EngineName:
    """What the engine of this instance is known by.

    Args:
        model_config: of Triton.
        args: of Triton's ``initialize``.
        version_dir: of the model.
        others: texts that make another engine where they differ.
    """
    texts = [_text(version_dir / name) for name in _STARTED_FROM]
    return folders.EngineName(
        model=args["model_name"],
        version=args["model_version"],
        devices=_devices(model_config, args),
        server=os.getppid(),
        files=folders.fingerprint([*texts, *others], _weights(texts[0], version_dir)),
    )


class Share:
    """What a front that is attached has in common with the others of its model."""

    def __init__(self, connection: Connection, fronts: int) -> None:
        """
        Args:
            connection: to the host, attached.
            fronts: how many there are to be.

        Raises:
            ConfigError: it is not attached: the engine came from elsewhere.
        """
        if not connection.client:
            raise ConfigError(
                "config.pbtxt: parameter SHARE_ENGINE: expected false, as the vLLM backend that this one builds on "
                "does not take its engine from vLLM's AsyncLLM"
            )
        self.fronts = fronts
        self._connection = connection
        self._board = Board(connection.folder / folders.BOARD)
        self._left: list[Board] = []
        self._on_fronts: Callable[[Fronts], None] | None = None
        self.sequences = self._row(SEQUENCES)
        self.decoded_bytes = self._row(DECODED_BYTES)
        self.file_bytes = self._row(FILE_BYTES)
        self.cache_bytes = self._row(CACHE_BYTES)
        self.newest = Newest(self._board, connection.client)

    def move(self, connection: Connection) -> None:
        """The engine has been started again, by another host.

        Args:
            connection: to it, attached.
        """
        board, before = Board(connection.folder / folders.BOARD), self._board
        for row in (self.sequences, self.decoded_bytes, self.file_bytes, self.cache_bytes):
            row.move(board, connection.client)
        self.newest.move(board, connection.client)
        self._connection, self._board = connection, board
        if self._on_fronts is not None:
            connection.when_fronts_change(self._on_fronts)
        self._left.append(before)  # threads may still look at it

    def is_first_to_note_the_end(self) -> bool:
        """Whether no other front has asked this of this engine before: one counts its end for all."""
        return self._board.is_first_to_note_the_end()

    async def number(self, key: str, at_least: int) -> int:
        """The same number for all fronts that ask for ``key``.

        Raises:
            UnavailableError: the engine has gone.
        """
        try:
            answer = await asyncio.wrap_future(self._connection.number(key, at_least))
        except HostLostError as error:
            raise UnavailableError("the vLLM engine has died; try again") from error
        assert isinstance(answer, Numbered)
        return answer.number

    def when_fronts_change(self, call: Callable[[Fronts], None]) -> None:
        """Have ``call`` called, from another thread, with news of all fronts that are to be counted here."""
        self._on_fronts = call
        self._connection.when_fronts_change(call)

    def close(self) -> None:
        """The front ends; nothing of it is asked any more."""
        self._connection.leave()
        self._on_fronts = None
        for board in (*self._left, self._board):
            board.close()

    def _row(self, column: int) -> Row:
        return Row(self._board, self._connection.client, column)


def _devices(model_config: Mapping[str, Any], args: Mapping[str, str]) -> str:
    group = devices.group_of(model_config, args)
    return f"{args['model_instance_kind']} {args['model_instance_device_id']}" if group is None else f"GPUs {group}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _weights(engine_arguments: str, version_dir: Path) -> list[Path]:
    """The folder of the model, where it is one of this machine."""
    try:
        folder = version_dir / json.loads(engine_arguments)["model"]
    except (ValueError, KeyError, TypeError):  # what reads it next says what is wrong
        return []
    return [folder] if folder.is_dir() else []
